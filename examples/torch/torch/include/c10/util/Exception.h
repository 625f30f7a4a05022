#pragma once
#include <stdexcept>
#include <string>

namespace c10 {

class __attribute__((visibility("default"))) Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] void torchCheckFail(const char* file, unsigned line, const std::string& message);

}  // namespace c10

// The file is whatever __FILE__ is while a source is compiled: torch_npu redefines it on the command line.
#define TORCH_CHECK(condition, message)                          \
  do {                                                           \
    if (!(condition)) {                                          \
      ::c10::torchCheckFail(__FILE__, __LINE__, (message));      \
    }                                                            \
  } while (0)
