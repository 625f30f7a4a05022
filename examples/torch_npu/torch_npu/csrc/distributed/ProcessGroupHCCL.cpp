#include "torch_npu/csrc/distributed/ProcessGroupHCCL.h"

#include <c10/util/Exception.h>
#include <hccl/hccl.h>

namespace c10d_npu {

int rank_size() {
  unsigned size = 0;
  TORCH_CHECK(HcclGetRankSize(nullptr, &size) == 0, "HcclGetRankSize failed");
  return static_cast<int>(size);
}

std::string build_date() { return __DATE__; }

}  // namespace c10d_npu
