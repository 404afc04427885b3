// y = x W^T + b for few tokens and bfloat16 weights, as fast as memory delivers the weights.
//
// Weights are packed once into tiles of 32 outputs: [N / 32][K / 2][32][2], K padded to a multiple of 32. So a
// thread reads its share of the weights from front to back, once for as many tokens as fit into registers:
// 32 with the CPU's tile unit (AMX-BF16, TDPBF16PS), 8 with AVX-512, 2 with AVX2 or NEON. A CPU that cannot
// multiply bfloat16 widens them in registers: a step of few tokens is the reading of the weights.
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
#include <string>
#include <type_traits>
#include <vector>

#include "pool.h"
#include "vectors.h"

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

// The level that this library was compiled for.
std::string level() {
#if defined(__AMX_BF16__)
  return "amx";
#elif defined(__AVX512BF16__)
  return "avx512_bf16";
#elif defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__)
  return "avx2";
#elif defined(__ARM_NEON)
  return "neon";
#else
  return "";
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

// A block of tokens with one tile of outputs. `stride` is the padded number of inputs, a multiple of 32.
struct Block {
  const Input* x;           // the first token
  const uint16_t* weights;  // of the tile
  const float* bias;        // of the tile, or null
  uint16_t* y;              // the first token's first output of the tile
  int64_t stride, outputs, kept;
};

void finish(const Block& block, int64_t token, Floats low, Floats high) {
  if (block.bias) {
    low = low + load(block.bias);
    high = high + load(block.bias + kLanes);
  }
  uint16_t out[kTile];
  narrow(low, out);
  narrow(high, out + kLanes);
  std::memcpy(block.y + token * block.outputs, out, block.kept * sizeof(uint16_t));
}

template <int Count>
void multiply(const Block& block) {
  Floats low[Count], high[Count];
  for (int m = 0; m < Count; ++m) low[m] = high[m] = all(0.0f);
  for (int64_t pair = 0; pair < block.stride / 2; ++pair) {
    const auto* line = block.weights + pair * kTile * 2;
    __builtin_prefetch(reinterpret_cast<const char*>(line) + kAhead);
    __builtin_prefetch(reinterpret_cast<const char*>(line) + kAhead + 64);
    const Pairs w0 = load_pairs(line), w1 = load_pairs(line + kTile);
#pragma GCC unroll 8
    for (int m = 0; m < Count; ++m) {
      const Input* two = block.x + m * block.stride + pair * 2;
      low[m] = add_products(low[m], two, w0);
      high[m] = add_products(high[m], two, w1);
    }
  }
  for (int m = 0; m < Count; ++m) finish(block, m, low[m], high[m]);
}

// As many tokens as fit into registers; returns how many of the `left` ones were taken.
int64_t multiply_some(const Block& block, int64_t left) {
  if constexpr (kBytes == 64) {
    if (left >= 8) return multiply<8>(block), 8;
    if (left >= 4) return multiply<4>(block), 4;
  }
  if (left >= 2) return multiply<2>(block), 2;
  return multiply<1>(block), 1;
}

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
    finish(block, m, load(sums[m]), load(sums[m] + 16));
  return tokens;
}

#endif

// x [count, K] as inputs, in rows of a multiple of 32, zeros where padded; in `made` unless x is that already.
const Input* as_rows(const uint16_t* x, int64_t count, int64_t inputs, int64_t stride, std::vector<Input>& made) {
  if constexpr (std::is_same_v<Input, uint16_t>)
    if (stride == inputs) return reinterpret_cast<const Input*>(x);
  made.resize(count * stride);
  for (int64_t m = 0; m < count; ++m) as_inputs(x + m * inputs, inputs, made.data() + m * stride);
  return made.data();
}

// x [..., K] bfloat16, packed weights, bias [32 * tiles] float32 -> [..., outputs] bfloat16.
Tensor linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
              int64_t outputs) {
  const Tensor tokens = torch::stable::contiguous(x);
  std::vector<int64_t> shape(tokens.sizes().begin(), tokens.sizes().end());
  const int64_t inputs = shape.back(), count = tokens.numel() / inputs;
  shape.back() = outputs;
  Tensor y = torch::stable::new_empty(tokens, shape);
  const int64_t tiles = packed.size(0), stride = packed.size(1) * 2;
  std::vector<Input> made;
  const auto* from =
      as_rows(static_cast<const uint16_t*>(tokens.data_ptr()), count, inputs, stride, made);
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
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def("kernel_level() -> str");
  library.def("set_threads(int threads) -> ()");
  library.def("use_tile_unit(bool wanted) -> bool");
  library.def("pack_linear(Tensor weight) -> Tensor");
  library.def("packed_linear(Tensor x, Tensor packed, Tensor? bias, int outputs) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CompositeExplicitAutograd, library) {
  library.impl("kernel_level", TORCH_BOX(&level));
  library.impl("set_threads", TORCH_BOX(&set_threads));
  library.impl("use_tile_unit", TORCH_BOX(&use_tile_unit));
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("pack_linear", TORCH_BOX(&pack));
  library.impl("packed_linear", TORCH_BOX(&linear));
}
