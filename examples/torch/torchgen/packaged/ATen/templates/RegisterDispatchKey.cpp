// ${generated_comment}
#include <torch/library.h>

${headers}

namespace {

${definitions}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
${registrations}
}
