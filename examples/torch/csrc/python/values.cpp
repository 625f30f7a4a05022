#include <torch/csrc/utils/python_values.h>

namespace torch {
namespace utils {

c10::IValue from_python(PyObject* object) {
  if (object == Py_None) {
    return c10::IValue();
  }
  if (PyBool_Check(object)) {
    return c10::IValue(object == Py_True);
  }
  if (PyLong_Check(object)) {
    return c10::IValue(static_cast<std::int64_t>(PyLong_AsLongLong(object)));
  }
  if (PyFloat_Check(object)) {
    return c10::IValue(PyFloat_AsDouble(object));
  }
  TORCH_CHECK(PyList_Check(object) || PyTuple_Check(object), "an argument is neither a number nor a list of numbers");
  std::vector<double> values;
  const Py_ssize_t size = PySequence_Size(object);
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* item = PySequence_GetItem(object, i);
    const double value = PyFloat_AsDouble(item);
    Py_XDECREF(item);
    if (PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw c10::Error("a list holds something that is not a number");
    }
    values.push_back(value);
  }
  return c10::IValue(at::Tensor(std::move(values)));
}

PyObject* to_python(const c10::IValue& value) {
  switch (value.kind) {
    case c10::IValue::Kind::Double:
      return PyFloat_FromDouble(value.number);
    case c10::IValue::Kind::Int:
      return PyLong_FromLongLong(value.integer);
    case c10::IValue::Kind::Bool:
      return PyBool_FromLong(value.integer);
    case c10::IValue::Kind::Tensor: {
      const auto& values = value.tensor.values();
      PyObject* list = PyList_New(static_cast<Py_ssize_t>(values.size()));
      for (std::size_t i = 0; i < values.size(); ++i) {
        PyList_SetItem(list, static_cast<Py_ssize_t>(i), PyFloat_FromDouble(values[i]));
      }
      return list;
    }
    default:
      Py_INCREF(Py_None);
      return Py_None;
  }
}

}  // namespace utils
}  // namespace torch
