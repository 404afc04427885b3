// Packs weights of 8 and 4 bits, as torch operators.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "quantized.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// weight [N, K] int8, contiguous -> packed [ceil(N / 32), 16 ceil(K / 64), 2, 64] uint8, zeros where padded.
Tensor pack8(const Tensor& weight) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t tiles = quantized::tiles_of(outputs);
  const int64_t lines = quantized::blocks_of(inputs) * quantized::kLines;
  Tensor packed = torch::stable::new_zeros(weight, {tiles, lines, 2, 64}, ScalarType::Byte);
  quantized::pack8(static_cast<const int8_t*>(weight.data_ptr()), outputs, inputs,
                   static_cast<uint8_t*>(packed.data_ptr()));
  return packed;
}

// weight [N, K] uint8, numbers below 16, contiguous -> packed [ceil(N / 32), 16 ceil(K / 64), 64], zeros where
// padded.
Tensor pack4(const Tensor& weight) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t tiles = quantized::tiles_of(outputs);
  const int64_t lines = quantized::blocks_of(inputs) * quantized::kLines;
  Tensor packed = torch::stable::new_zeros(weight, {tiles, lines, 64});
  quantized::pack4(static_cast<const uint8_t*>(weight.data_ptr()), outputs, inputs,
                   static_cast<uint8_t*>(packed.data_ptr()));
  return packed;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def("pack_eight_bits(Tensor weight) -> Tensor");
  library.def("pack_four_bits(Tensor weight) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("pack_eight_bits", TORCH_BOX(&pack8));
  library.impl("pack_four_bits", TORCH_BOX(&pack4));
}
