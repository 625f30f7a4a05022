// ${generated_comment}
#include "op_plugin/AclOpsInterface.h"
#include "op_plugin/OpApiInterface.h"
#include "op_plugin/OpInterface.h"

namespace op_plugin {

${definitions}

}  // namespace op_plugin
