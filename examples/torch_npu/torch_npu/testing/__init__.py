"""What torch_npu's own tests use."""
