#pragma once
#include <string>
#include <type_traits>
#include <utility>

#include <ATen/core/dispatch/Dispatcher.h>

namespace torch {

namespace detail {

template <class R, class... A, std::size_t... I>
c10::IValue invoke(R (*function)(A...), const c10::Stack& stack, std::index_sequence<I...>) {
  TORCH_CHECK(stack.size() == sizeof...(A), "wrong number of arguments");
  return c10::IValue(function(c10::From<std::decay_t<A>>::value(stack[I])...));
}

}  // namespace detail

/// What TORCH_LIBRARY and TORCH_LIBRARY_IMPL hand to their bodies.
class Library {
 public:
  Library(const char* space, const char* key, const char* file) : space_(space), key_(key), file_(file) {}

  Library& def(const char* schema) {
    c10::Dispatcher::singleton().define(space_, schema, file_);
    return *this;
  }

  template <class R, class... A>
  Library& impl(const char* name, R (*function)(A...)) {
    c10::Dispatcher::singleton().implement(
        space_, name, key_,
        [function](const c10::Stack& stack) {
          return detail::invoke(function, stack, std::index_sequence_for<A...>{});
        },
        file_);
    return *this;
  }

 private:
  std::string space_;
  std::string key_;
  std::string file_;
};

namespace detail {

struct LibraryInit {
  LibraryInit(void (*body)(Library&), const char* space, const char* key, const char* file) {
    Library library(space, key, file);
    body(library);
  }
};

}  // namespace detail
}  // namespace torch

#define TORCH_FN(function) (&function)
#define TORCH_LIBRARY_IMPL(space, key, m)                                                                          \
  static void torch_library_##space##_##key(::torch::Library&);                                                    \
  static const ::torch::detail::LibraryInit torch_library_init_##space##_##key(&torch_library_##space##_##key,     \
                                                                               #space, #key, __FILE__);            \
  static void torch_library_##space##_##key(::torch::Library& m)
#define TORCH_LIBRARY(space, m) TORCH_LIBRARY_IMPL(space, Schema, m)
