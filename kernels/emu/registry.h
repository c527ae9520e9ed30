// The emulated kernels by name, each with how to take its arguments out of the driver's list.
#pragma once
#include "emu.h"
#include <map>
#include <tuple>
#include <utility>

namespace emu {

using Call = std::function<void(void **arguments)>;

// `sizes`: bytes of each argument.
struct Kernel {
  Call call;
  std::vector<size_t> sizes;
};

std::map<std::string, Kernel> &kernels();

struct Export {
  template <class... Arguments> Export(const char *name, void (*kernel)(Arguments...)) {
    kernels()[name] = {[kernel](void **arguments) { call(kernel, arguments, std::index_sequence_for<Arguments...>{}); },
                       {sizeof(Arguments)...}};
  }
  template <class... Arguments, size_t... at>
  static void call(void (*kernel)(Arguments...), void **arguments, std::index_sequence<at...>) {
    kernel(*static_cast<std::decay_t<Arguments> *>(arguments[at])...);
  }
};

}  // namespace emu
