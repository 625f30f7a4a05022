#include "torch_npu/csrc/npu/Module.h"

#include <c10/util/Exception.h>

#include "torch_npu/csrc/core/npu/NPUFunctions.h"
#include "torch_npu/csrc/distributed/ProcessGroupHCCL.h"
#include "torch_npu/csrc/logging/Logger.h"
#include "torch_npu/csrc/toolkit/profiler/Profiler.h"

namespace torch_npu {
namespace {

template <class Function>
PyObject* guarded(Function function) {
  try {
    return function();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyObject* text(const std::string& value) { return PyUnicode_FromString(value.c_str()); }

PyObject* npu_init(PyObject*, PyObject*) {
  return guarded([] {
    c10_npu::initialise();
    Py_INCREF(Py_None);
    return Py_None;
  });
}

PyObject* npu_device_count(PyObject*, PyObject*) {
  return guarded([] { return PyLong_FromLong(c10_npu::device_count()); });
}

PyObject* npu_soc_name(PyObject*, PyObject*) {
  return guarded([] { return text(c10_npu::soc_name()); });
}

PyObject* npu_log(PyObject*, PyObject*) { return text(npu_logging::Logger::instance().text()); }

PyObject* npu_runs(PyObject*, PyObject*) { return PyLong_FromLongLong(toolkit::runs()); }

PyObject* npu_rank_size(PyObject*, PyObject*) {
  return guarded([] { return PyLong_FromLong(c10d_npu::rank_size()); });
}

PyObject* npu_build_date(PyObject*, PyObject*) { return text(c10d_npu::build_date()); }

PyObject* npu_version(PyObject*, PyObject*) { return text(PYTORCH_NPU_VERSION); }

PyMethodDef methods[] = {
    {"_npu_init", npu_init, METH_NOARGS, "Initialise the runtime."},
    {"_npu_getDeviceCount", npu_device_count, METH_NOARGS, "The number of devices."},
    {"_npu_get_soc_name", npu_soc_name, METH_NOARGS, "The name of the device."},
    {"_npu_log", npu_log, METH_NOARGS, "What happened, a JSON object a line."},
    {"_npu_runs", npu_runs, METH_NOARGS, "How many operators ran as commands."},
    {"_npu_rank_size", npu_rank_size, METH_NOARGS, "Ranks of the default group."},
    {"_npu_build_date", npu_build_date, METH_NOARGS, "When ProcessGroupHCCL.cpp was compiled."},
    {"_npu_version", npu_version, METH_NOARGS, "The version that was compiled in."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyMethodDef* module_methods() { return methods; }

}  // namespace torch_npu
