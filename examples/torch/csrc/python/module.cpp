// torch._C: the way from Python to the dispatcher.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/utils/python_values.h>

namespace {

PyObject* call(PyObject*, PyObject* arguments) {
  const char* name = nullptr;
  PyObject* values = nullptr;
  if (PyArg_ParseTuple(arguments, "sO!", &name, &PyTuple_Type, &values) == 0) {
    return nullptr;
  }
  try {
    c10::Stack stack;
    for (Py_ssize_t i = 0; i < PyTuple_Size(values); ++i) {
      stack.push_back(torch::utils::from_python(PyTuple_GetItem(values, i)));
    }
    return torch::utils::to_python(c10::Dispatcher::singleton().call(name, stack));
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyObject* schemas(PyObject*, PyObject* arguments) {
  const char* space = nullptr;
  if (PyArg_ParseTuple(arguments, "s", &space) == 0) {
    return nullptr;
  }
  PyObject* list = PyList_New(0);
  for (const auto& schema : c10::Dispatcher::singleton().schemas(space)) {
    PyObject* text = PyUnicode_FromString(schema.c_str());
    PyList_Append(list, text);
    Py_XDECREF(text);
  }
  return list;
}

PyObject* dump(PyObject*, PyObject* arguments) {
  const char* name = nullptr;
  if (PyArg_ParseTuple(arguments, "s", &name) == 0) {
    return nullptr;
  }
  return PyUnicode_FromString(c10::Dispatcher::singleton().dump(name).c_str());
}

PyMethodDef methods[] = {
    {"_call", call, METH_VARARGS, "Call an operator by its qualified name with a tuple of arguments."},
    {"_schemas", schemas, METH_VARARGS, "The schemas of a namespace."},
    {"_dispatch_dump", dump, METH_VARARGS, "The kernels of an operator, a line each."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "torch._C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&definition); }
