#pragma once
#include <string>

namespace nlohmann {

/// A flat object of strings and integers, written in the order of its insertions.
class json {
 public:
  json& add(const std::string& key, const std::string& value) { return raw(key, quoted(value)); }
  json& add(const std::string& key, long value) { return raw(key, std::to_string(value)); }
  std::string dump() const { return "{" + body_ + "}"; }

 private:
  static std::string quoted(const std::string& value) {
    std::string result = "\"";
    for (char c : value) {
      if (c == '"' || c == '\\') {
        result += '\\';
      }
      result += c;
    }
    return result + "\"";
  }

  json& raw(const std::string& key, const std::string& value) {
    body_ += (body_.empty() ? "" : ",") + quoted(key) + ":" + value;
    return *this;
  }

  std::string body_;
};

}  // namespace nlohmann
