// y = x W^T + b for few tokens of float32 and weights of 16 or 32 bits, as fast as memory delivers the weights.
//
// Weights are packed once into tiles of 32 outputs, and these into lines of two inputs: [N / 32][K / 2][64], K padded
// to a multiple of 32; `weights.h` says how a line lies. So a thread reads its share of the weights from front to
// back, once for as many tokens as fit into registers:
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

#include "pool.h"
#include "vectors.h"
#include "weights.h"

namespace linear {

using weights::kGroups;
using weights::kTile;

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

// weight [N, K] -> packed [tiles, padded K / 2, 64], which holds zeros.
template <typename Format>
void pack(const typename Format::Stored* weight, int64_t outputs, int64_t inputs, typename Format::Stored* packed) {
  Pool::instance().run(tiles_of(outputs), [&](int64_t tile) {
    auto* to = packed + tile * padded(inputs) * kTile;
    const int64_t kept = std::min(kTile, outputs - tile * kTile);
    for (int64_t n = 0; n < kept; ++n)
      for (int64_t k = 0; k < inputs; ++k)
        to[k / 2 * weights::kLine + Format::place(n, k % 2)] = weight[(tile * kTile + n) * inputs + k];
  });
}

// A layer: packed weights, and a bias for all outputs of all tiles or null.
template <typename Format>
struct Layer {
  const typename Format::Stored* packed;
  const float* bias;
  int64_t outputs, inputs;
};

// Where the products of a layer with some tokens go: the first token's outputs, the next one's `stride` behind them.
struct Out {
  float* values;
  int64_t stride;
};

// A block of tokens with one tile of outputs. `stride` is the padded number of inputs, a multiple of 32.
template <typename Format>
struct Block {
  const typename Format::Input* x;        // the first token
  const typename Format::Stored* weights;  // of the tile
  const float* bias;                      // of the tile, or null
  Out y;                                  // the first token's first output of the tile
  int64_t stride, kept;

  // The sums of a token with one of the tile's two groups of 16 outputs.
  void finish(int64_t token, int64_t group, Floats sums) const {
    const int64_t first = group * kLanes, left = kept - first;
    if (bias) sums = sums + load(bias + first);
    float* to = y.values + token * y.stride + first;
    if (left >= kLanes) return store(to, sums);
    float held[kLanes];
    store(held, sums);
    if (left > 0) std::memcpy(to, held, left * sizeof(float));
  }
};

// Adds pairs [begin, end) of inputs to the sums of `Count` tokens with `Groups` groups of outputs from `first` on,
// which are in registers meanwhile.
template <int Count, int Groups, typename Format>
void add_pairs(const Block<Format>& block, int64_t first, int64_t begin, int64_t end,
               Floats (&sums)[Count][kGroups]) {
  constexpr auto kLineBytes = static_cast<int64_t>(weights::kLine * sizeof(typename Format::Stored));
  Floats held[Count][Groups];
#pragma GCC unroll 8
  for (int m = 0; m < Count; ++m)
#pragma GCC unroll 2
    for (int group = 0; group < Groups; ++group) held[m][group] = sums[m][first + group];
  for (int64_t pair = begin; pair < end; ++pair) {
    const auto* line = block.weights + pair * weights::kLine;
    if (first == 0)
      for (int64_t byte = 0; byte < kLineBytes; byte += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(line) + kAhead + byte);
    typename Format::Pairs pairs[Groups];
#pragma GCC unroll 2
    for (int group = 0; group < Groups; ++group) pairs[group] = Format::load(line, first + group);
#pragma GCC unroll 8
    for (int m = 0; m < Count; ++m)
#pragma GCC unroll 2
      for (int group = 0; group < Groups; ++group)
        held[m][group] = Format::add(held[m][group], block.x + m * block.stride + pair * 2, pairs[group]);
  }
#pragma GCC unroll 8
  for (int m = 0; m < Count; ++m)
#pragma GCC unroll 2
    for (int group = 0; group < Groups; ++group) sums[m][first + group] = held[m][group];
}

// `Count` tokens, with as many groups of outputs at once as then fit into registers.
template <int Count, int Groups, typename Format>
void multiply_tokens(const Block<Format>& block) {
  Floats sums[Count][kGroups];
  for (auto& of_token : sums) std::fill_n(of_token, kGroups, all(0.0f));
  const int64_t pairs = block.stride / 2;  // a multiple of kStretch
  const int64_t length = Groups == kGroups ? pairs : kStretch;
  for (int64_t begin = 0; begin < pairs; begin += length)
    for (int64_t first = 0; first < kGroups; first += Groups)
      add_pairs<Count, Groups>(block, first, begin, begin + length, sums);
  for (int m = 0; m < Count; ++m)
    for (int64_t group = 0; group < kGroups; ++group) block.finish(m, group, sums[m][group]);
}

// As many tokens as fit into registers; returns how many of the `left` ones were taken.
template <typename Format>
int64_t multiply_some(const Block<Format>& block, int64_t left) {
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

  // g++ 12 takes the instruction to read 8 of these bytes, and leaves out what writes the others.
  void use() const {
    asm volatile("" : : "r"(this) : "memory");
    _tile_loadconfig(this);
  }
};

// Registers 0 to 3 hold sums (tokens 0-15 and 16-31 by outputs 0-15 and 16-31), 4 and 5 tokens, 6 and 7 weights.
inline void shape_tiles(int64_t tokens) {
  const auto first = static_cast<uint8_t>(std::min(tokens, kRows));
  const auto second = static_cast<uint8_t>(std::max<int64_t>(tokens - kRows, 1));
  TileShapes shapes;
  for (const int sum : {0, 1, 4}) shapes.rows[sum] = first;
  for (const int sum : {2, 3, 5}) shapes.rows[sum] = second;
  shapes.rows[6] = shapes.rows[7] = kRows;
  shapes.use();
}

// Up to 32 tokens. A token has a row of each register to itself, so the others in it change nothing.
inline int64_t multiply_tiles(const Block<weights::Bfloat16>& block, int64_t left) {
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
      block.finish(m, group, load(sums[m] + group * kLanes));
  return tokens;
}

#endif

// As many tokens as the CPU takes at once; returns how many of the `left` ones were taken.
template <typename Format>
int64_t multiply_most(const Block<Format>& block, int64_t left) {
#ifdef __AMX_BF16__
  if constexpr (std::is_same_v<Format, weights::Bfloat16>)
    if (tile_unit_used) return multiply_tiles(block, left);
#endif
  return multiply_some(block, left);
}

// Tokens [count, K] as a format multiplies them, in rows of a multiple of 32, zeros where padded. They lie in what
// the thread keeps for this from one layer to the next.
template <typename Format>
const typename Format::Input* as_rows(const float* x, int64_t x_stride, int64_t count, int64_t inputs) {
  static thread_local std::vector<typename Format::Input> made;
  const int64_t stride = padded(inputs);
  if (static_cast<int64_t>(made.size()) < count * stride) made.resize(count * stride);
  for (int64_t m = 0; m < count; ++m) {
    auto* row = made.data() + m * stride;
    Format::as_inputs(x + m * x_stride, inputs, row);
    std::fill(row + inputs, row + stride, typename Format::Input{0});
  }
  return made.data();
}

// One tile of outputs of a layer with all tokens, which are rows of padded inputs.
template <typename Format>
void multiply_tile(const Layer<Format>& layer, int64_t tile, const typename Format::Input* x, int64_t count, Out y) {
  const int64_t first = tile * kTile, stride = padded(layer.inputs);
  Block<Format> block{x, layer.packed + first * stride, layer.bias ? layer.bias + first : nullptr,
                      {y.values + first, y.stride}, stride, std::min(kTile, layer.outputs - first)};
  for (int64_t m = 0; m < count;) {
    const int64_t taken = multiply_most(block, count - m);
    m += taken;
    block.x += taken * stride;
    block.y.values += taken * y.stride;
  }
}

// x [count, K] -> y [count, N].
template <typename Format>
void multiply(const Layer<Format>& layer, const float* x, int64_t x_stride, int64_t count, Out y) {
  const auto* rows = as_rows<Format>(x, x_stride, count, layer.inputs);
  Pool::instance().run(tiles_of(layer.outputs),
                       [&](int64_t tile) { multiply_tile(layer, tile, rows, count, y); });
}

}  // namespace linear
