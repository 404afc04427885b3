// y = x W^T + b for few tokens and bfloat16 weights, as fast as memory delivers the weights.
//
// Weights are packed once into tiles of 32 outputs: [N / 32][K / 2][32][2], so that one instruction
// (AVX512-BF16 VDPBF16PS) takes two steps of the sum for 16 outputs, and a thread reads its share of the
// weights from front to back exactly once for every eight tokens.
//
// A token's sums run over k in ascending order whatever the number of tokens, its place among them or the
// number of threads, so its bits depend on nothing but the token and the weights.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <tuple>

#include "pool.h"

namespace {

using torch::stable::Tensor;

constexpr int64_t kTile = 32;
constexpr int64_t kTokens = 8;

void set_threads(int64_t threads) { Pool::instance().set_threads(threads); }

bool available() {
#ifdef __AVX512BF16__
  return true;
#else
  return false;
#endif
}

// weight [N, K] bfloat16, contiguous -> packed [ceil(N / 32), ceil(K / 2), 32, 2], zeros where padded.
Tensor pack(const Tensor& weight) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t tiles = (outputs + kTile - 1) / kTile, pairs = (inputs + 1) / 2;
  Tensor packed = torch::stable::new_zeros(weight, {tiles, pairs, kTile, 2});
  const auto* from = static_cast<const uint16_t*>(weight.data_ptr());
  auto* to = static_cast<uint16_t*>(packed.data_ptr());
  for (int64_t n = 0; n < outputs; ++n)
    for (int64_t k = 0; k < inputs; ++k)
      to[(((n / kTile) * pairs + k / 2) * kTile + n % kTile) * 2 + k % 2] = from[n * inputs + k];
  return packed;
}

#ifdef __AVX512BF16__

// One tile of outputs for `Count` tokens. x points at the first token, y at its first output of the tile.
template <int Count>
void multiply(const uint16_t* x, const uint16_t* weights, const float* bias, uint16_t* y,
              int64_t inputs, int64_t outputs, int64_t kept) {
  __m512 low[Count], high[Count];
  for (int m = 0; m < Count; ++m) low[m] = high[m] = _mm512_setzero_ps();
  const int64_t whole = inputs / 2;
  for (int64_t pair = 0; pair < whole; ++pair) {
    const auto* line = weights + pair * kTile * 2;
    _mm_prefetch(reinterpret_cast<const char*>(line) + 4096, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(line) + 4160, _MM_HINT_T0);
    const auto w0 = (__m512bh)_mm512_loadu_si512(line);
    const auto w1 = (__m512bh)_mm512_loadu_si512(line + kTile);
    for (int m = 0; m < Count; ++m) {
      int32_t two;
      std::memcpy(&two, x + m * inputs + pair * 2, sizeof(two));
      const auto token = (__m512bh)_mm512_set1_epi32(two);
      low[m] = _mm512_dpbf16_ps(low[m], token, w0);
      high[m] = _mm512_dpbf16_ps(high[m], token, w1);
    }
  }
  if (inputs % 2) {
    const auto* line = weights + whole * kTile * 2;
    const auto w0 = (__m512bh)_mm512_loadu_si512(line);
    const auto w1 = (__m512bh)_mm512_loadu_si512(line + kTile);
    for (int m = 0; m < Count; ++m) {
      const auto token = (__m512bh)_mm512_set1_epi32(x[m * inputs + inputs - 1]);
      low[m] = _mm512_dpbf16_ps(low[m], token, w0);
      high[m] = _mm512_dpbf16_ps(high[m], token, w1);
    }
  }
  const __m512 bias_low = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
  const __m512 bias_high = bias ? _mm512_loadu_ps(bias + 16) : _mm512_setzero_ps();
  for (int m = 0; m < Count; ++m) {
    alignas(64) uint16_t out[kTile];
    _mm256_store_si256((__m256i*)out, (__m256i)_mm512_cvtneps_pbh(low[m] + bias_low));
    _mm256_store_si256((__m256i*)(out + 16), (__m256i)_mm512_cvtneps_pbh(high[m] + bias_high));
    std::memcpy(y + m * outputs, out, kept * sizeof(uint16_t));
  }
}

void multiply_some(int count, const uint16_t* x, const uint16_t* weights, const float* bias,
                   uint16_t* y, int64_t inputs, int64_t outputs, int64_t kept) {
  switch (count) {
    case 8: return multiply<8>(x, weights, bias, y, inputs, outputs, kept);
    case 4: return multiply<4>(x, weights, bias, y, inputs, outputs, kept);
    case 2: return multiply<2>(x, weights, bias, y, inputs, outputs, kept);
    default: return multiply<1>(x, weights, bias, y, inputs, outputs, kept);
  }
}

#endif

// x [..., K] bfloat16, packed weights, bias [32 * tiles] float32 -> [..., outputs] bfloat16.
Tensor linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
              int64_t outputs) {
  const Tensor tokens = torch::stable::contiguous(x);
  std::vector<int64_t> shape(tokens.sizes().begin(), tokens.sizes().end());
  const int64_t inputs = shape.back(), count = tokens.numel() / inputs;
  shape.back() = outputs;
  Tensor y = torch::stable::new_empty(tokens, shape);
#ifdef __AVX512BF16__
  const auto* from = static_cast<const uint16_t*>(tokens.data_ptr());
  const auto* weights = static_cast<const uint16_t*>(packed.data_ptr());
  const auto* biases = bias ? static_cast<const float*>(bias->data_ptr()) : nullptr;
  auto* to = static_cast<uint16_t*>(y.data_ptr());
  const int64_t tiles = packed.size(0), tile_size = packed.size(1) * kTile * 2;
  Pool::instance().run(tiles, [&](int64_t tile) {
    const int64_t first = tile * kTile, kept = std::min(kTile, outputs - first);
    for (int64_t m = 0; m < count;) {
      const int64_t left = count - m;
      const int some = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      multiply_some(some, from + m * inputs, weights + tile * tile_size,
                    biases ? biases + first : nullptr, to + m * outputs + first, inputs, outputs,
                    kept);
      m += some;
    }
  });
#endif
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def("linear_available() -> bool");
  library.def("set_threads(int threads) -> ()");
  library.def("pack_linear(Tensor weight) -> Tensor");
  library.def("packed_linear(Tensor x, Tensor packed, Tensor? bias, int outputs) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CompositeExplicitAutograd, library) {
  library.impl("linear_available", TORCH_BOX(&available));
  library.impl("set_threads", TORCH_BOX(&set_threads));
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("pack_linear", TORCH_BOX(&pack));
  library.impl("packed_linear", TORCH_BOX(&linear));
}
