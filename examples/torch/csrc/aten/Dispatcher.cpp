#include <ATen/core/dispatch/Dispatcher.h>

#include <map>

namespace c10 {
namespace {

struct Registration {
  Kernel kernel;
  std::string where;
};

struct Operator {
  std::string schema;
  std::map<std::string, Registration> kernels;
};

// Filled by static initialisers of several libraries, so it must exist before the first of them runs.
std::map<std::string, Operator>& operators() {
  static auto* table = new std::map<std::string, Operator>();
  return *table;
}

}  // namespace

Dispatcher& Dispatcher::singleton() {
  static Dispatcher dispatcher;
  return dispatcher;
}

void Dispatcher::define(const std::string& space, const std::string& schema, const std::string& where) {
  const auto qualified = space + "::" + schema.substr(0, schema.find('('));
  auto& entry = operators()[qualified];
  TORCH_CHECK(entry.schema.empty(), "operator " + qualified + " is defined twice, again in " + where);
  entry.schema = schema;
}

void Dispatcher::implement(const std::string& space, const std::string& name, const std::string& key, Kernel kernel,
                           const std::string& where) {
  operators()[space + "::" + name].kernels[key] = {std::move(kernel), where};
}

IValue Dispatcher::call(const std::string& qualified, const Stack& arguments) const {
  const auto found = operators().find(qualified);
  TORCH_CHECK(found != operators().end(), "there is no operator " + qualified);
  for (const char* key : {"PrivateUse1", "CPU"}) {
    const auto kernel = found->second.kernels.find(key);
    if (kernel != found->second.kernels.end()) {
      return kernel->second.kernel(arguments);
    }
  }
  throw Error("operator " + qualified + " has a schema but no kernel");
}

std::vector<std::string> Dispatcher::schemas(const std::string& space) const {
  std::vector<std::string> found;
  for (const auto& entry : operators()) {
    if (entry.first.rfind(space + "::", 0) == 0 && !entry.second.schema.empty()) {
      found.push_back(entry.second.schema);
    }
  }
  return found;
}

std::string Dispatcher::dump(const std::string& qualified) const {
  std::string text;
  const auto found = operators().find(qualified);
  if (found != operators().end()) {
    for (const auto& kernel : found->second.kernels) {
      text += kernel.first + ": " + kernel.second.where + "\n";
    }
  }
  return text;
}

}  // namespace c10
