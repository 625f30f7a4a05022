#pragma once
#include <string>
#include <vector>

namespace npu_logging {

/// Keeps what happened as JSON, a line each.
class Logger {
 public:
  static Logger& instance();
  void record(const std::string& event, const std::string& detail);
  std::string text() const;

 private:
  std::vector<std::string> lines_;
};

}  // namespace npu_logging
