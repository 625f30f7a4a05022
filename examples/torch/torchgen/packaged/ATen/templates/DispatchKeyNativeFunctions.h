#pragma once
// ${generated_comment}
#include <ATen/Tensor.h>

namespace at_npu {
namespace native {

struct ${class_name} {
${declarations}
};

}  // namespace native
}  // namespace at_npu
