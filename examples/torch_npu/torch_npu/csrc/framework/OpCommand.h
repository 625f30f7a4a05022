#pragma once
#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

namespace at_npu {
namespace native {

/// One operator about to run: its name, its inputs, and what is done to every element.
class OpCommand {
 public:
  explicit OpCommand(std::string name) : name_(std::move(name)) {}
  OpCommand& input(const at::Tensor& tensor);
  at::Tensor run(const std::function<double(double)>& kernel) const;

 private:
  std::string name_;
  std::vector<at::Tensor> inputs_;
};

}  // namespace native
}  // namespace at_npu
