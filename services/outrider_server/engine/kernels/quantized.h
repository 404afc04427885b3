// y = x W^T + b for few tokens and weights of 8 or 4 bits, as fast as memory delivers the weights.
//
// A weight is an integer of 8 bits, for 4 bits one of sixteen such integers, times a scale and plus an offset. These
// are of its output and a group of inputs: 32 of them, 64 or a multiple, or all. The inputs of a token become integers
// of 8 bits too (tokens.h), whose sum an offset is multiplied with.
//
//   bitsandbytes  int8: one group; nf4, fp4: sixteen integers near the format's values, groups of 64
//   GPTQ, AWQ     4 bits: the integers -8 to 7, 8 bits: less 128; an offset of scale (8 or 128 - zero) where the zero
//                 is another
//   GGUF          groups of 32. Q8_0: 8 bits. Q4_0: the integers -8 to 7. Q4_1: 0 to 15, the minimum as offset
//
// So the sums of a block are exact, and blocks are added in order in float32: a token's bits depend on it and the
// weights alone, on any CPU.
//
// Weights are packed once into tiles of 32 outputs. A thread reads its share of them from front to back, once for
// all tokens.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "integers.h"
#include "pool.h"
#include "tokens.h"
#include "vectors.h"

namespace quantized {

constexpr int64_t kTile = 32;                        // outputs
constexpr int64_t kLines = kBlock / 4;               // four inputs of a block each
constexpr int64_t kAhead = 4096;                     // bytes that weights are asked for before they are used
constexpr int64_t kTogether = kBytes == 64 ? 8 : 4;  // tokens whose sums fit into registers
constexpr int64_t kMost = 64;                        // tokens for one reading of the weights
constexpr int kOffset = 128;                         // of a weight

constexpr int64_t tiles_of(int64_t outputs) { return (outputs + kTile - 1) / kTile; }

// weight [N, K] -> packed [tiles, blocks, 16, 2, 64]: lines of four inputs, each of outputs 0 to 15 and 16 to 31.
// `packed` holds zeros, and does where nothing is written.
inline void pack8(const int8_t* weight, int64_t outputs, int64_t inputs, uint8_t* packed) {
  const int64_t lines = blocks_of(inputs) * kLines;
  for (int64_t n = 0; n < outputs; ++n)
    for (int64_t k = 0; k < inputs; ++k)
      packed[(((n / kTile) * lines + k / 4) * kTile + n % kTile) * 4 + kPlaces[k % 4]] =
          static_cast<uint8_t>(weight[n * inputs + k] + kOffset);
}

// weight [N, K], numbers below 16 -> packed [tiles, blocks, 16, 64]: lines of four inputs, outputs 0 to 15 in the
// lower halves of the bytes and 16 to 31 in the upper ones. `packed` holds zeros, and does where nothing is written.
inline void pack4(const uint8_t* weight, int64_t outputs, int64_t inputs, uint8_t* packed) {
  const int64_t lines = blocks_of(inputs) * kLines;
  for (int64_t n = 0; n < outputs; ++n)
    for (int64_t k = 0; k < inputs; ++k)
      packed[(((n / kTile) * lines + k / 4) * 16 + n % 16) * 4 + kPlaces[k % 4]] |=
          weight[n * inputs + k] << (n % kTile / 16 * 4);
}

struct TwoParts {
  BytePart low, high;  // outputs 0 to 15 and 16 to 31 of a tile, as much as one register holds of them
};

// Weights of a tile from a block on, of 8 bits and of 4.

struct Eight {
  const uint8_t* weights;

  Eight at(int64_t block) const { return {weights + block * kBlock * kTile}; }

  [[gnu::always_inline]] void ask_ahead(int64_t line) const {
    for (int64_t half = 0; half < 2; ++half) __builtin_prefetch(weights + line * 128 + half * 64 + kAhead);
  }

  [[gnu::always_inline]] TwoParts line(int64_t line, int part) const {
    const uint8_t* from = weights + line * 128 + part * kBytes;
    return {load_part<BytePart>(from), load_part<BytePart>(from + 64)};
  }
};

struct Four {
  const uint8_t* weights;
  BytePart codes;

  Four at(int64_t block) const { return {weights + block * kBlock * kTile / 2, codes}; }

  [[gnu::always_inline]] void ask_ahead(int64_t line) const { __builtin_prefetch(weights + line * 64 + kAhead); }

  [[gnu::always_inline]] TwoParts line(int64_t line, int part) const {
    const auto both = load_part<BytePart>(weights + line * 64 + part * kBytes);
    return {looked_up(codes, both & 15), looked_up(codes, both >> 4)};
  }
};

// What the integers of some inputs are times, and what is added to them then, for 32 outputs: [32] each. `offsets`
// is null where nothing is.
struct Group {
  const float* scales;
  const float* offsets;

  Group at(int64_t output) const { return {scales + output, offsets ? offsets + output : nullptr}; }
};

// Adds sums of products, each `scale` times what it stands for, and of inputs whose own sum is `whole`.
[[gnu::always_inline]] inline void add_scaled(IntPart sum, const Group& group, float scale, int32_t whole, float* to) {
  const FloatPart value = __builtin_convertvector(sum, FloatPart);
  FloatPart added = fused(value, load_part<FloatPart>(group.scales) * scale, load_part<FloatPart>(to));
  if (group.offsets)
    added = fused(load_part<FloatPart>(group.offsets), FloatPart{} + scale * static_cast<float>(whole), added);
  std::memcpy(to, &added, kBytes);
}

// Adds a block's products of some tokens to their sums [Count, 32]. `x` and `scaled` are the first token's block;
// those of the next lie `blocks` behind them. The block is of one group, or each half is of its own.
template <int Count, int Groups, typename Weights>
void add_block(const Weights& weights, const Group& group, const Whole* x, const Scaled* scaled, int64_t blocks,
               float* sums) {
  constexpr int kChains = kBytes == 64 && Count <= 4 ? 2 : 1;  // sums at once: one waits for the one before it
  constexpr int64_t kGroupLines = kLines / Groups;
  for (int turn = 0; turn < kParts * Groups; ++turn) {
    const int part = turn % kParts, half = turn / kParts;
    IntPart low[Count][kChains], high[Count][kChains];
#pragma GCC unroll 8
    for (int m = 0; m < Count; ++m)
      for (int chain = 0; chain < kChains; ++chain)
        low[m][chain] = high[m][chain] =
            IntPart{} - (chain ? 0 : kOffset * scaled[m * blocks].sum<3 - Groups>(half));
    for (int64_t line = half * kGroupLines; line < (half + 1) * kGroupLines; line += kChains) {
#pragma GCC unroll 2
      for (int chain = 0; chain < kChains; ++chain) {
        if (part == 0) weights.ask_ahead(line + chain);
        const TwoParts both = weights.line(line + chain, part);
        const Fours first = as_fours(both.low), second = as_fours(both.high);
#pragma GCC unroll 8
        for (int m = 0; m < Count; ++m) {
          const Whole* inputs = x + m * blocks * kBlock + (line + chain) * 4;
          low[m][chain] = add_products(low[m][chain], inputs, first);
          high[m][chain] = add_products(high[m][chain], inputs, second);
        }
      }
    }
    const Group of_part = group.at(half * kTile + part * kPartLanes);
#pragma GCC unroll 8
    for (int m = 0; m < Count; ++m) {
      const Scaled& token = scaled[m * blocks];
      const int32_t whole = token.sum<3 - Groups>(half);
      float* to = sums + m * kTile + part * kPartLanes;
      add_scaled(kChains == 2 ? low[m][0] + low[m][1] : low[m][0], of_part, token.scale, whole, to);
      add_scaled(kChains == 2 ? high[m][0] + high[m][1] : high[m][0], of_part.at(kLanes), token.scale, whole,
                 to + kLanes);
    }
  }
}

// Adds a block's products of tokens [first, first + count).
template <int Groups, typename Weights>
void add_tokens(const Weights& weights, const Group& group, const Tokens& tokens, int64_t block, int64_t first,
                int64_t count, float* sums) {
  for (int64_t m = 0; m < count;) {
    const int64_t at = (first + m) * tokens.blocks + block, left = count - m;
    const auto add = [&]<int Count>() {
      add_block<Count, Groups>(weights, group, tokens.integers.data() + at * kBlock, tokens.scaled.data() + at,
                               tokens.blocks, sums + m * kTile);
      m += Count;
    };
    if (kTogether == 8 && left >= 8)
      add.template operator()<8>();
    else if (left >= 4)
      add.template operator()<4>();
    else if (left >= 2)
      add.template operator()<2>();
    else
      add.template operator()<1>();
  }
  if (tokens.rest_scaled.empty()) return;
  for (int64_t m = 0; m < count; ++m) {
    const int32_t rest = tokens.rests[(first + m) * tokens.blocks + block];
    if (rest >= 0)
      add_block<1, Groups>(weights, group, tokens.rest_integers.data() + rest * kBlock,
                           tokens.rest_scaled.data() + rest, 0, sums + m * kTile);
  }
}

// A layer. A weight is its integer times a scale and plus an offset, which `group` inputs share: 32, a multiple of
// 64, or, where it is 0, all. `scales` and `offsets` are [tiles, groups, 32], of 32 inputs two groups for each block;
// `offsets` may be null. `codes` are those of 4 bits, null for 8; `bias` is for all outputs of all tiles, or null.
struct Layer {
  const uint8_t* packed;
  const float* scales;
  const float* offsets;
  const int8_t* codes;
  const float* bias;
  int64_t outputs, inputs, group;

  int64_t groups() const {
    if (group == kHalf) return 2 * blocks_of(inputs);
    return group ? (inputs + group - 1) / group : 1;
  }

  // What a block of a tile, or its first half, is of.
  Group group_of(int64_t tile, int64_t block) const {
    const int64_t at = (tile * groups() + (group ? block * kBlock / group : 0)) * kTile;
    return {scales + at, offsets ? offsets + at : nullptr};
  }
};

// Adds the bias and writes what is kept of a tile's outputs of one token.
inline void finish(float* sums, const float* bias, int64_t kept, float* y) {
  if (bias)
    for (int64_t n = 0; n < kTile; n += kLanes) store(sums + n, load(sums + n) + load(bias + n));
  std::memcpy(y, sums, kept * sizeof(float));
}

// A tile of outputs of all tokens, whose outputs lie `stride` apart.
template <int Groups, typename Weights>
void multiply_tile(const Layer& layer, const Weights& weights, int64_t tile, const Tokens& tokens, int64_t count,
                   float* y, int64_t stride) {
  const int64_t begin = tile * kTile, kept = std::min(kTile, layer.outputs - begin);
  for (int64_t first = 0; first < count; first += kMost) {
    const int64_t some = std::min(kMost, count - first);
    alignas(64) float sums[kMost * kTile];
    std::fill_n(sums, some * kTile, 0.0f);
    for (int64_t block = 0; block < tokens.blocks; ++block)
      add_tokens<Groups>(weights.at(block), layer.group_of(tile, block), tokens, block, first, some, sums);
    for (int64_t m = 0; m < some; ++m)
      finish(sums + m * kTile, layer.bias ? layer.bias + begin : nullptr, kept,
             y + (first + m) * stride + begin);
  }
}

inline BytePart table_of(const int8_t* codes) {
  uint8_t table[16];
  for (int place = 0; place < 16; ++place) table[place] = static_cast<uint8_t>(codes[place] + kOffset);
  return load_table(table);
}

// x [count, K] -> y [count, N], tokens `x_stride` and `y_stride` apart.
inline void multiply(const Layer& layer, const float* x, int64_t x_stride, int64_t count, float* y, int64_t y_stride) {
  const Tokens tokens(x, x_stride, count, layer.inputs);
  const int64_t weights = tokens.blocks * kBlock * kTile;  // of a tile
  const BytePart codes = layer.codes ? table_of(layer.codes) : BytePart{};
  Pool::instance().run(tiles_of(layer.outputs), [&](int64_t tile) {
    const auto add = [&](const auto& of_tile) {
      if (layer.group == kHalf)
        multiply_tile<2>(layer, of_tile, tile, tokens, count, y, y_stride);
      else
        multiply_tile<1>(layer, of_tile, tile, tokens, count, y, y_stride);
    };
    if (layer.codes)
      add(Four{layer.packed + tile * weights / 2, codes});
    else
      add(Eight{layer.packed + tile * weights});
  });
}

}  // namespace quantized
