#pragma once
#include <Python.h>

namespace torch_npu {

/// The functions of torch_npu._C.
__attribute__((visibility("default"))) PyMethodDef* module_methods();

}  // namespace torch_npu
