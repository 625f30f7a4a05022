#include "torch_npu/csrc/logging/Logger.h"

#include <nlohmann/json.hpp>

namespace npu_logging {

Logger& Logger::instance() {
  static Logger logger;
  return logger;
}

void Logger::record(const std::string& event, const std::string& detail) {
  nlohmann::json line;
  line.add("event", event).add("detail", detail).add("source", __FILENAME__);
  lines_.push_back(line.dump());
}

std::string Logger::text() const {
  std::string result;
  for (const auto& line : lines_) {
    result += line + "\n";
  }
  return result;
}

}  // namespace npu_logging
