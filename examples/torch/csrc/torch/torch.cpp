// libtorch.so gathers the other libraries under one name, as PyTorch's does.
namespace torch {
int abi_anchor() { return 1; }
}  // namespace torch
