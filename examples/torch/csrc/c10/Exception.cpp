#include <c10/util/Exception.h>

namespace c10 {

void torchCheckFail(const char* file, unsigned line, const std::string& message) {
  throw Error(message + " (" + file + ":" + std::to_string(line) + ")");
}

}  // namespace c10
