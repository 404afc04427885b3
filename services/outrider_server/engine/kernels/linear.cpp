// What a process says once, and how many threads it has, as torch operators.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "linear.h"
#include "pool.h"
#include "vectors.h"

namespace {

// The level that this library was compiled for.
std::string level() { return kLevel; }

void set_threads(int64_t threads) { Pool::instance().set_threads(threads); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def("kernel_level() -> str");
  library.def("set_threads(int threads) -> ()");
  library.def("use_tile_unit(bool wanted) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CompositeExplicitAutograd, library) {
  library.impl("kernel_level", TORCH_BOX(&level));
  library.impl("set_threads", TORCH_BOX(&set_threads));
  library.impl("use_tile_unit", TORCH_BOX(&linear::use_tile_unit));
}
