#pragma once
// Includes Python.h: an object made from a source that includes this serves one version of Python only.
#include <Python.h>

#include <ATen/core/ivalue.h>

namespace torch {
namespace utils {

/// A list of numbers, a number, True, False or None as a value. Throws c10::Error for anything else.
c10::IValue from_python(PyObject* object);
/// A new reference.
PyObject* to_python(const c10::IValue& value);

}  // namespace utils
}  // namespace torch
