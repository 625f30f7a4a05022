#include <Python.h>

#include "torch_npu/csrc/npu/Module.h"

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "torch_npu._C", nullptr, -1, nullptr, nullptr, nullptr, nullptr,
                                 nullptr};

PyMODINIT_FUNC PyInit__C(void) {
  definition.m_methods = torch_npu::module_methods();
  return PyModule_Create(&definition);
}
