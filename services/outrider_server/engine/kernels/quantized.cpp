// Linear layers over weights of 8 and 4 bits, as torch operators.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bfloat16.h"
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

std::unique_ptr<float[]> floats(int64_t count) { return std::make_unique_for_overwrite<float[]>(count); }

// Any number of bfloat16 to float32.
void widen_all(const uint16_t* from, int64_t count, float* to) {
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t index = 0; index < whole; index += kLanes) store(to + index, widened(from + index));
  for (int64_t index = whole; index < count; ++index)
    to[index] = std::bit_cast<float>(static_cast<uint32_t>(from[index]) << 16);
}

// Any number of float32 to bfloat16.
void narrow_all(const float* from, int64_t count, uint16_t* to) {
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t index = 0; index < whole; index += kLanes) narrow(load(from + index), to + index);
  uint16_t rest[kLanes];
  narrow(load_some(from + whole, count - whole), rest);
  std::copy_n(rest, count - whole, to + whole);
}

// x [..., K] bfloat16; packed weights; scales [tiles, 1 or blocks, 32] float32; codes [16] int8, of 4 bits; bias
// [32 * tiles] float32 -> [..., outputs] bfloat16.
Tensor quantized_linear(const Tensor& x, const Tensor& packed, const Tensor& scales,
                        const std::optional<Tensor>& codes, const std::optional<Tensor>& bias,
                        int64_t outputs) {
  const Tensor tokens = torch::stable::contiguous(x);
  std::vector<int64_t> shape(tokens.sizes().begin(), tokens.sizes().end());
  const int64_t inputs = shape.back(), count = tokens.numel() / inputs;
  shape.back() = outputs;
  Tensor y = torch::stable::new_empty(tokens, shape);
  const quantized::Layer layer{static_cast<const uint8_t*>(packed.data_ptr()),
                               static_cast<const float*>(scales.data_ptr()),
                               codes ? static_cast<const int8_t*>(codes->data_ptr()) : nullptr,
                               bias ? static_cast<const float*>(bias->data_ptr()) : nullptr,
                               outputs,
                               inputs,
                               scales.size(1) > 1};
  const auto wide = floats(count * inputs), sums = floats(count * outputs);
  widen_all(static_cast<const uint16_t*>(tokens.data_ptr()), count * inputs, wide.get());
  quantized::multiply(layer, wide.get(), inputs, count, sums.get(), outputs);
  narrow_all(sums.get(), count * outputs, static_cast<uint16_t*>(y.data_ptr()));
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def("pack_eight_bits(Tensor weight) -> Tensor");
  library.def("pack_four_bits(Tensor weight) -> Tensor");
  library.def(
      "quantized_linear(Tensor x, Tensor packed, Tensor scales, Tensor? codes, Tensor? bias, int outputs) "
      "-> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("pack_eight_bits", TORCH_BOX(&pack8));
  library.impl("pack_four_bits", TORCH_BOX(&pack4));
  library.impl("quantized_linear", TORCH_BOX(&quantized_linear));
}
