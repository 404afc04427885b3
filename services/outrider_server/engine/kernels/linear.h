// y = x W^T + b for few tokens and bfloat16 weights, as fast as memory delivers the weights.
//
// Weights are packed once into tiles of 32 outputs: [N / 32][K / 2][32][2], K padded to a multiple of 32. So a
// thread reads its share of the weights from front to back, once for as many tokens as fit into registers:
// 32 with the CPU's tile unit (AMX-BF16, TDPBF16PS), 8 with AVX-512. With AVX2 and NEON 4 tokens fill the
// registers with 16 outputs; the tile's other 16 follow every few KB, while the cache has them. A CPU that cannot
// multiply bfloat16 widens it in registers: a step of few tokens is the reading of the weights.
//
// On one machine a token's sums run over k in the same order whatever the number of tokens, its place among
// them or the number of threads, so its bits depend on nothing but the token and the weights.

#pragma once

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "bfloat16.h"
#include "pool.h"
#include "vectors.h"

namespace linear {

constexpr int64_t kTile = 32;     // outputs
constexpr int64_t kGroups = 2;    // of 16 of them
constexpr int64_t kStretch = 16;  // pairs of inputs that one group is multiplied by before the other: 2 KB
constexpr int64_t kAhead = 4096;  // bytes that weights are asked for before they are used

// Whether the CPU's tile unit (AMX) multiplies. Changed between steps only.
inline bool tile_unit_used = false;

// Switches the tile unit on or off for this process; returns whether it is used. Linux lends it on request.
inline bool use_tile_unit([[maybe_unused]] bool wanted) {
#ifdef __AMX_BF16__
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  tile_unit_used = wanted && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
  return tile_unit_used;
}

constexpr int64_t tiles_of(int64_t outputs) { return (outputs + kTile - 1) / kTile; }

constexpr int64_t padded(int64_t inputs) { return (inputs + 31) / 32 * 32; }

// weight [N, K] -> packed [tiles, padded K / 2, 32, 2], which holds zeros.
inline void pack(const uint16_t* weight, int64_t outputs, int64_t inputs, uint16_t* packed) {
  const int64_t pairs = padded(inputs) / 2;
  for (int64_t n = 0; n < outputs; ++n)
    for (int64_t k = 0; k < inputs; ++k)
      packed[(((n / kTile) * pairs + k / 2) * kTile + n % kTile) * 2 + k % 2] = weight[n * inputs + k];
}

// A block of tokens with one tile of outputs. `stride` is the padded number of inputs, a multiple of 32.
struct Block {
  const Input* x;           // the first token
  const uint16_t* weights;  // of the tile
  const float* bias;        // of the tile, or null
  char* y;                  // the first token's first output of the tile
  int64_t stride, outputs, kept;
  bool rounded;  // to bfloat16; else outputs are float32

  int64_t output_bytes() const { return rounded ? sizeof(uint16_t) : sizeof(float); }
};

// The sums of a token with one of the tile's two groups of 16 outputs.
inline void finish(const Block& block, int64_t token, int64_t group, Floats sums) {
  const int64_t first = group * kLanes;
  if (block.bias) sums = sums + load(block.bias + first);
  alignas(64) char out[kLanes * sizeof(float)];
  if (block.rounded)
    narrow(sums, reinterpret_cast<uint16_t*>(out));
  else
    store(reinterpret_cast<float*>(out), sums);
  std::memcpy(block.y + (token * block.outputs + first) * block.output_bytes(), out,
              std::clamp<int64_t>(block.kept - first, 0, kLanes) * block.output_bytes());
}

// Adds pairs [begin, end) of inputs to the sums of `Count` tokens with `Groups` groups of outputs from `first` on,
// which are in registers meanwhile.
template <int Count, int Groups>
void add_pairs(const Block& block, int64_t first, int64_t begin, int64_t end, Floats (&sums)[Count][kGroups]) {
  Floats held[Count][Groups];
#pragma GCC unroll 8
  for (int m = 0; m < Count; ++m)
#pragma GCC unroll 2
    for (int group = 0; group < Groups; ++group) held[m][group] = sums[m][first + group];
  for (int64_t pair = begin; pair < end; ++pair) {
    const auto* line = block.weights + pair * kTile * 2;
    if (first == 0) {
      __builtin_prefetch(reinterpret_cast<const char*>(line) + kAhead);
      __builtin_prefetch(reinterpret_cast<const char*>(line) + kAhead + 64);
    }
    Pairs weights[Groups];
#pragma GCC unroll 2
    for (int group = 0; group < Groups; ++group)
      weights[group] = load_pairs(line + (first + group) * kLanes * 2);
#pragma GCC unroll 8
    for (int m = 0; m < Count; ++m)
#pragma GCC unroll 2
      for (int group = 0; group < Groups; ++group)
        held[m][group] =
            add_products(held[m][group], block.x + m * block.stride + pair * 2, weights[group]);
  }
#pragma GCC unroll 8
  for (int m = 0; m < Count; ++m)
#pragma GCC unroll 2
    for (int group = 0; group < Groups; ++group) sums[m][first + group] = held[m][group];
}

// `Count` tokens, with as many groups of outputs at once as then fit into registers.
template <int Count, int Groups>
void multiply_tokens(const Block& block) {
  Floats sums[Count][kGroups];
  for (auto& of_token : sums) std::fill_n(of_token, kGroups, all(0.0f));
  const int64_t pairs = block.stride / 2;  // a multiple of kStretch
  const int64_t length = Groups == kGroups ? pairs : kStretch;
  for (int64_t begin = 0; begin < pairs; begin += length)
    for (int64_t first = 0; first < kGroups; first += Groups)
      add_pairs<Count, Groups>(block, first, begin, begin + length, sums);
  for (int m = 0; m < Count; ++m)
    for (int64_t group = 0; group < kGroups; ++group) finish(block, m, group, sums[m][group]);
}

// As many tokens as fit into registers; returns how many of the `left` ones were taken.
inline int64_t multiply_some(const Block& block, int64_t left) {
  constexpr bool wide = kBytes == 64;
  if (wide && left >= 8) return multiply_tokens<8, 2>(block), 8;
  if (left >= 4) return multiply_tokens<4, wide ? 2 : 1>(block), 4;
  if (left >= 2) return multiply_tokens<2, 2>(block), 2;
  return multiply_tokens<1, 2>(block), 1;
}

#ifdef __AMX_BF16__

constexpr int64_t kRows = 16;  // of a tile register

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, unused[14] = {};
  uint16_t bytes_a_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {};
};

// Registers 0 to 3 hold sums (tokens 0-15 and 16-31 by outputs 0-15 and 16-31), 4 and 5 tokens, 6 and 7 weights.
inline void shape_tiles(int64_t tokens) {
  const auto first = static_cast<uint8_t>(std::min(tokens, kRows));
  const auto second = static_cast<uint8_t>(std::max<int64_t>(tokens - kRows, 1));
  TileShapes shapes;
  for (const int sum : {0, 1, 4}) shapes.rows[sum] = first;
  for (const int sum : {2, 3, 5}) shapes.rows[sum] = second;
  shapes.rows[6] = shapes.rows[7] = kRows;
  _tile_loadconfig(&shapes);
}

// Up to 32 tokens. A token has a row of each register to itself, so the others in it change nothing.
inline int64_t multiply_tiles(const Block& block, int64_t left) {
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
    for (int64_t group = 0; group < kGroups; ++group)
      finish(block, m, group, load(sums[m] + group * kLanes));
  return tokens;
}

#endif

// x [count, K] as inputs, in rows of a multiple of 32, zeros where padded; in `made` unless x is that already.
inline const Input* as_rows(const uint16_t* x, int64_t count, int64_t inputs, int64_t stride,
                            std::vector<Input>& made) {
  if constexpr (std::is_same_v<Input, uint16_t>)
    if (stride == inputs) return reinterpret_cast<const Input*>(x);
  made.resize(count * stride);
  for (int64_t m = 0; m < count; ++m) as_inputs(x + m * inputs, inputs, made.data() + m * stride);
  return made.data();
}

// A layer: packed weights, and a bias for all outputs of all tiles or null.
struct Layer {
  const uint16_t* packed;
  const float* bias;
  int64_t outputs, inputs;
};

// x [count, K] bfloat16 -> y [count, N], bfloat16 where it is rounded and float32 where it is not.
inline void multiply(const Layer& layer, const uint16_t* x, int64_t count, void* y, bool rounded) {
  const int64_t stride = padded(layer.inputs);
  std::vector<Input> made;
  const Input* rows = as_rows(x, count, layer.inputs, stride, made);
  Pool::instance().run(tiles_of(layer.outputs), [&](int64_t tile) {
    const int64_t first = tile * kTile;
    Block block{rows, layer.packed + first * stride, layer.bias ? layer.bias + first : nullptr,
                static_cast<char*>(y), stride, layer.outputs, std::min(kTile, layer.outputs - first), rounded};
    block.y += first * block.output_bytes();
    for (int64_t m = 0; m < count;) {
#ifdef __AMX_BF16__
      const int64_t taken = tile_unit_used ? multiply_tiles(block, count - m)
                                           : multiply_some(block, count - m);
#else
      const int64_t taken = multiply_some(block, count - m);
#endif
      m += taken;
      block.x += taken * stride;
      block.y += taken * layer.outputs * block.output_bytes();
    }
  });
}

}  // namespace linear
