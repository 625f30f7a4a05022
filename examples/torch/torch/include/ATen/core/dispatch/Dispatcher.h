#pragma once
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/ivalue.h>

namespace c10 {

using Kernel = std::function<IValue(const Stack&)>;

/// Operators by qualified name ("npu::npu_add", "aten::add.Tensor"): a schema each, and a kernel for each key.
class Dispatcher {
 public:
  static Dispatcher& singleton();

  void define(const std::string& space, const std::string& schema, const std::string& where);
  void implement(const std::string& space, const std::string& name, const std::string& key, Kernel kernel,
                 const std::string& where);

  /// Call with the kernel of PrivateUse1 if there is one, else of CPU. Throws c10::Error when neither exists.
  IValue call(const std::string& qualified, const Stack& arguments) const;
  std::vector<std::string> schemas(const std::string& space) const;
  /// One line "KEY: where registered" for each kernel of an operator.
  std::string dump(const std::string& qualified) const;

 private:
  Dispatcher() = default;
};

}  // namespace c10
