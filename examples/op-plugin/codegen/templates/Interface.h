#pragma once
// ${generated_comment}
#include <ATen/ATen.h>

namespace ${namespace} {

${declarations}

}  // namespace ${namespace}
