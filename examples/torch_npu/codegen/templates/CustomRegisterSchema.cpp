// ${generated_comment}
#include <torch/library.h>

#include "op_plugin/OpInterface.h"

TORCH_LIBRARY(npu, m) {
${custom_schema_registrations}
}

TORCH_LIBRARY_IMPL(npu, PrivateUse1, m) {
${custom_impl_registrations}
}
