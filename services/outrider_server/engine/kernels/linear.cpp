// The linear layer, and what a process says once, as torch operators.

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

using torch::stable::Tensor;

// The level that this library was compiled for.
std::string level() { return kLevel; }

void set_threads(int64_t threads) { Pool::instance().set_threads(threads); }

// weight [N, K] bfloat16, contiguous -> packed [ceil(N / 32), 16 ceil(K / 32), 32, 2], zeros where padded.
Tensor pack(const Tensor& weight) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  Tensor packed = torch::stable::new_zeros(
      weight, {linear::tiles_of(outputs), linear::padded(inputs) / 2, linear::kTile, 2});
  linear::pack(static_cast<const uint16_t*>(weight.data_ptr()), outputs, inputs,
               static_cast<uint16_t*>(packed.data_ptr()));
  return packed;
}

// x [..., K] bfloat16, packed weights, bias [32 * tiles] float32 -> [..., outputs] in the type that is asked for,
// bfloat16 or float32.
Tensor packed_linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                     int64_t outputs, torch::headeronly::ScalarType type) {
  const Tensor tokens = torch::stable::contiguous(x);
  std::vector<int64_t> shape(tokens.sizes().begin(), tokens.sizes().end());
  const int64_t inputs = shape.back(), count = tokens.numel() / inputs;
  shape.back() = outputs;
  Tensor y = torch::stable::new_empty(tokens, shape, type);
  const linear::Layer layer{static_cast<const uint16_t*>(packed.data_ptr()),
                            bias ? static_cast<const float*>(bias->data_ptr()) : nullptr, outputs,
                            inputs};
  linear::multiply(layer, static_cast<const uint16_t*>(tokens.data_ptr()), count, y.data_ptr(),
                   type == torch::headeronly::ScalarType::BFloat16);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def("kernel_level() -> str");
  library.def("set_threads(int threads) -> ()");
  library.def("use_tile_unit(bool wanted) -> bool");
  library.def("pack_linear(Tensor weight) -> Tensor");
  library.def("packed_linear(Tensor x, Tensor packed, Tensor? bias, int outputs, ScalarType dtype) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CompositeExplicitAutograd, library) {
  library.impl("kernel_level", TORCH_BOX(&level));
  library.impl("set_threads", TORCH_BOX(&set_threads));
  library.impl("use_tile_unit", TORCH_BOX(&linear::use_tile_unit));
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("pack_linear", TORCH_BOX(&pack));
  library.impl("packed_linear", TORCH_BOX(&packed_linear));
}
