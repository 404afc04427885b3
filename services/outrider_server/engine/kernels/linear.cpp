// y = x W^T + b for few tokens and bfloat16 weights, as fast as memory delivers the weights.
//
// Weights are packed once into tiles of 32 outputs: [N / 32][K / 2][32][2], K padded to a multiple of 32. So a
// thread reads its share of the weights from front to back, once for as many tokens as fit into registers:
// 32 with the CPU's tile unit (AMX-BF16, TDPBF16PS), 8 with AVX512-BF16 (VDPBF16PS).
//
// On one machine a token's sums run over k in the same order whatever the number of tokens, its place among
// them or the number of threads, so its bits depend on nothing but the token and the weights.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "pool.h"

namespace {

using torch::stable::Tensor;

constexpr int64_t kTile = 32;     // outputs
constexpr int64_t kAhead = 4096;  // bytes that weights are asked for before they are used

// Whether the CPU's tile unit (AMX) multiplies. Changed between steps only.
bool tile_unit_used = false;

void set_threads(int64_t threads) { Pool::instance().set_threads(threads); }

// Switches the tile unit on or off for this process; returns whether it is used. Linux lends it on request.
bool use_tile_unit(bool wanted) {
#ifdef __AMX_BF16__
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  tile_unit_used = wanted && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
  return tile_unit_used;
}

bool available() {
#ifdef __AVX512BF16__
  return true;
#else
  return false;
#endif
}

// weight [N, K] bfloat16, contiguous -> packed [ceil(N / 32), 16 ceil(K / 32), 32, 2], zeros where padded.
Tensor pack(const Tensor& weight) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t tiles = (outputs + kTile - 1) / kTile, pairs = (inputs + 31) / 32 * 16;
  Tensor packed = torch::stable::new_zeros(weight, {tiles, pairs, kTile, 2});
  const auto* from = static_cast<const uint16_t*>(weight.data_ptr());
  auto* to = static_cast<uint16_t*>(packed.data_ptr());
  for (int64_t n = 0; n < outputs; ++n)
    for (int64_t k = 0; k < inputs; ++k)
      to[(((n / kTile) * pairs + k / 2) * kTile + n % kTile) * 2 + k % 2] = from[n * inputs + k];
  return packed;
}

#ifdef __AVX512BF16__

// A block of tokens with one tile of outputs. `stride` is the padded number of inputs, a multiple of 32.
struct Block {
  const uint16_t* x;        // the first token
  const uint16_t* weights;  // of the tile
  const float* bias;        // of the tile, or null
  uint16_t* y;              // the first token's first output of the tile
  int64_t stride, outputs, kept;
};

void finish(const Block& block, int64_t token, __m512 low, __m512 high) {
  if (block.bias) {
    low += _mm512_loadu_ps(block.bias);
    high += _mm512_loadu_ps(block.bias + 16);
  }
  alignas(64) uint16_t out[kTile];
  _mm256_store_si256((__m256i*)out, (__m256i)_mm512_cvtneps_pbh(low));
  _mm256_store_si256((__m256i*)(out + 16), (__m256i)_mm512_cvtneps_pbh(high));
  std::memcpy(block.y + token * block.outputs, out, block.kept * sizeof(uint16_t));
}

template <int Count>
void multiply(const Block& block) {
  __m512 low[Count], high[Count];
  for (int m = 0; m < Count; ++m) low[m] = high[m] = _mm512_setzero_ps();
  for (int64_t pair = 0; pair < block.stride / 2; ++pair) {
    const auto* line = block.weights + pair * kTile * 2;
    _mm_prefetch(reinterpret_cast<const char*>(line) + kAhead, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(line) + kAhead + 64, _MM_HINT_T0);
    const auto w0 = (__m512bh)_mm512_loadu_si512(line);
    const auto w1 = (__m512bh)_mm512_loadu_si512(line + kTile);
    for (int m = 0; m < Count; ++m) {
      int32_t two;
      std::memcpy(&two, block.x + m * block.stride + pair * 2, sizeof(two));
      const auto token = (__m512bh)_mm512_set1_epi32(two);
      low[m] = _mm512_dpbf16_ps(low[m], token, w0);
      high[m] = _mm512_dpbf16_ps(high[m], token, w1);
    }
  }
  for (int m = 0; m < Count; ++m) finish(block, m, low[m], high[m]);
}

// As many tokens as fit into registers; returns how many of the `left` ones were taken.
int64_t multiply_some(const Block& block, int64_t left) {
  if (left >= 8) return multiply<8>(block), 8;
  if (left >= 4) return multiply<4>(block), 4;
  if (left >= 2) return multiply<2>(block), 2;
  return multiply<1>(block), 1;
}

#endif

#ifdef __AMX_BF16__

constexpr int64_t kRows = 16;  // of a tile register

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, unused[14] = {};
  uint16_t bytes_a_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {};
};

// Registers 0 to 3 hold sums (tokens 0-15 and 16-31 by outputs 0-15 and 16-31), 4 and 5 tokens, 6 and 7 weights.
void shape_tiles(int64_t tokens) {
  const auto first = static_cast<uint8_t>(std::min(tokens, kRows));
  const auto second = static_cast<uint8_t>(std::max<int64_t>(tokens - kRows, 1));
  TileShapes shapes;
  for (const int sum : {0, 1, 4}) shapes.rows[sum] = first;
  for (const int sum : {2, 3, 5}) shapes.rows[sum] = second;
  shapes.rows[6] = shapes.rows[7] = kRows;
  _tile_loadconfig(&shapes);
}

// Up to 32 tokens. A token has a row of each register to itself, so the others in it change nothing.
int64_t multiply_tiles(const Block& block, int64_t left) {
  const int64_t tokens = std::min(left, 2 * kRows);
  const bool both = tokens > kRows;
  shape_tiles(tokens);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < block.stride; k += 32) {
    const auto* line = block.weights + k * kTile;
    for (int64_t ahead = 0; ahead < 32 * kTile; ahead += 32)
      _mm_prefetch(reinterpret_cast<const char*>(line + ahead) + kAhead, _MM_HINT_T0);
    _tile_loadd(6, line, kTile * 4);
    _tile_loadd(7, line + kTile, kTile * 4);
    _tile_loadd(4, block.x + k, block.stride * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (both) {
      _tile_loadd(5, block.x + kRows * block.stride + k, block.stride * 2);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  alignas(64) float sums[2 * kRows][kTile];
  _tile_stored(0, sums[0], sizeof(sums[0]));
  _tile_stored(1, sums[0] + 16, sizeof(sums[0]));
  if (both) {
    _tile_stored(2, sums[kRows], sizeof(sums[0]));
    _tile_stored(3, sums[kRows] + 16, sizeof(sums[0]));
  }
  _tile_release();
  for (int64_t m = 0; m < tokens; ++m)
    finish(block, m, _mm512_load_ps(sums[m]), _mm512_load_ps(sums[m] + 16));
  return tokens;
}

#endif

// x [count, K] in rows of a multiple of 32, zeros where padded; in `padded` unless x has them already.
const uint16_t* in_whole_rows(const uint16_t* x, int64_t count, int64_t inputs, int64_t stride,
                              std::vector<uint16_t>& padded) {
  if (stride == inputs) return x;
  padded.resize(count * stride);
  for (int64_t m = 0; m < count; ++m)
    std::copy_n(x + m * inputs, inputs, padded.data() + m * stride);
  return padded.data();
}

// x [..., K] bfloat16, packed weights, bias [32 * tiles] float32 -> [..., outputs] bfloat16.
Tensor linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
              int64_t outputs) {
  const Tensor tokens = torch::stable::contiguous(x);
  std::vector<int64_t> shape(tokens.sizes().begin(), tokens.sizes().end());
  const int64_t inputs = shape.back(), count = tokens.numel() / inputs;
  shape.back() = outputs;
  Tensor y = torch::stable::new_empty(tokens, shape);
#ifdef __AVX512BF16__
  const int64_t tiles = packed.size(0), stride = packed.size(1) * 2;
  std::vector<uint16_t> padded;
  const auto* from = in_whole_rows(static_cast<const uint16_t*>(tokens.data_ptr()), count, inputs,
                                   stride, padded);
  const auto* weights = static_cast<const uint16_t*>(packed.data_ptr());
  const auto* biases = bias ? static_cast<const float*>(bias->data_ptr()) : nullptr;
  auto* to = static_cast<uint16_t*>(y.data_ptr());
  Pool::instance().run(tiles, [&](int64_t tile) {
    const int64_t first = tile * kTile;
    Block block{from, weights + first * stride, biases ? biases + first : nullptr, to + first,
                stride, outputs, std::min(kTile, outputs - first)};
    for (int64_t m = 0; m < count;) {
#ifdef __AMX_BF16__
      const int64_t taken = tile_unit_used ? multiply_tiles(block, count - m)
                                           : multiply_some(block, count - m);
#else
      const int64_t taken = multiply_some(block, count - m);
#endif
      m += taken;
      block.x += taken * stride;
      block.y += taken * outputs;
    }
  });
#endif
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def("linear_available() -> bool");
  library.def("set_threads(int threads) -> ()");
  library.def("use_tile_unit(bool wanted) -> bool");
  library.def("pack_linear(Tensor weight) -> Tensor");
  library.def("packed_linear(Tensor x, Tensor packed, Tensor? bias, int outputs) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CompositeExplicitAutograd, library) {
  library.impl("linear_available", TORCH_BOX(&available));
  library.impl("set_threads", TORCH_BOX(&set_threads));
  library.impl("use_tile_unit", TORCH_BOX(&use_tile_unit));
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("pack_linear", TORCH_BOX(&pack));
  library.impl("packed_linear", TORCH_BOX(&linear));
}
