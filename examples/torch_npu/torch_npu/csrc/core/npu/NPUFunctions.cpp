#include "torch_npu/csrc/core/npu/NPUFunctions.h"

#include <acl/acl.h>
#include <c10/util/Exception.h>

#include <string>

#include "torch_npu/csrc/logging/Logger.h"

namespace c10_npu {
namespace {

void check(int status, const char* call) {
  TORCH_CHECK(status == 0, std::string(call) + " failed with error " + std::to_string(status));
}

}  // namespace

void initialise() {
  check(aclInit(nullptr), "aclInit");
  check(aclrtSetDevice(0), "aclrtSetDevice");
  npu_logging::Logger::instance().record("initialise", soc_name());
}

int device_count() {
  unsigned count = 0;
  check(aclrtGetDeviceCount(&count), "aclrtGetDeviceCount");
  return static_cast<int>(count);
}

std::string soc_name() {
  const char* name = aclrtGetSocName();
  return name == nullptr ? "" : name;
}

}  // namespace c10_npu
