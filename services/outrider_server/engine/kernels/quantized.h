// y = x W^T + b for few tokens and weights of 8 or 4 bits, as fast as memory delivers the weights.
//
// A weight is an integer of 8 bits, for 4 bits one of sixteen such integers, times a scale and plus an offset. These
// are of its output and a group of inputs: 32 of them, 64 or a multiple, or all. The inputs of a token become integers
// of 8 bits too (tokens.h), whose sum an offset is multiplied with.
//
//   bitsandbytes  int8: one group; nf4, fp4: sixteen integers near the format's values (nf4's have 7 bits), groups of 64
//   GPTQ, AWQ     4 bits: the integers -8 to 7, 8 bits: less 128; an offset of scale (8 or 128 - zero) where the zero
//                 is another
//   GGUF          groups of 32. Q8_0: 8 bits. Q4_0: the integers -8 to 7. Q4_1: 0 to 15, the minimum as offset
//
// So the sums of a block are exact, and blocks are added in order in float32: a token's bits depend on it and the
// weights alone, on any CPU.
//
// Weights are packed once into tiles of 32 outputs (quantized_weights.h). A thread reads its share of them from front
// to back, once for all tokens.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "integers.h"
#include "pool.h"
#include "quantized_weights.h"
#include "tokens.h"
#include "vectors.h"

namespace quantized {

constexpr int64_t kTogether = kBytes == 64 ? 8 : 4;  // tokens whose sums fit into registers
constexpr int64_t kMost = 64;                        // tokens for one reading of the weights

// The sums of the products of `Count` tokens with outputs of a tile: a register of them, and one half a tile behind it.
template <int Count>
struct Sums {
  IntPart of[Count][2];

  // Calls change(sum, token, which of the two) for all of them.
  template <typename Change>
  [[gnu::always_inline]] void each(const Change& change) {
#pragma GCC unroll 8
    for (int m = 0; m < Count; ++m)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) change(of[m][half], m, half);
  }
};

// Adds the products of `Lines` lines from `begin` on.
template <int Count, int64_t Lines, typename Weights>
[[gnu::always_inline]] inline void add_lines(const Weights& weights, const Inputs& x, int64_t begin, int part,
                                             Sums<Count>& sums) {
  constexpr int kChains = kBytes == 64 && Count <= 4 ? 2 : 1;  // sums at once: one waits for the one before it
  const auto* inputs = Weights::inputs(x);
  Sums<Count> chains[kChains] = {sums};
  for (int64_t line = begin; line < begin + Lines;) {
#pragma GCC unroll 2
    for (int chain = 0; chain < kChains; ++chain, ++line) {
      if (part == 0) weights.ask_ahead(line);
      const decltype(weights.taken(line, part)) taken[] = {weights.taken(line, part),
                                                           weights.taken(line, part + kParts)};
      chains[chain].each([&](IntPart& sum, int m, int half) {
        sum = add_products(sum, inputs + m * kBlock + line * 4, taken[half]);
      });
    }
  }
  sums = chains[0];
  if constexpr (kChains == 2) sums.each([&](IntPart& sum, int m, int half) { sum += chains[1].of[m][half]; });
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__)

// The same for weights below 16: eight lines at a time are summed in 16 bits.
template <int Count, int64_t Lines>
[[gnu::always_inline]] inline void add_lines(const Four& weights, const Inputs& x, int64_t begin, int part,
                                             Sums<Count>& sums) {
  constexpr int64_t kFitting = 8;
  for (const int64_t end = begin + Lines; begin < end; begin += kFitting) {
    PairPart pairs[Count][2] = {};
    for (int64_t line = begin; line < begin + kFitting; ++line) {
      if (part == 0) weights.ask_ahead(line);
      const BytePart low = weights.line(line, part), high = weights.line(line, part + kParts);
#pragma GCC unroll 8
      for (int m = 0; m < Count; ++m) {
        pairs[m][0] = add_narrow(pairs[m][0], x.bytes + m * kBlock + line * 4, low);
        pairs[m][1] = add_narrow(pairs[m][1], x.bytes + m * kBlock + line * 4, high);
      }
    }
    sums.each([&](IntPart& sum, int m, int half) { sum += pair_sums(pairs[m][half]); });
  }
}

#endif

// Adds a block's products of some tokens, the first of which is `first`, to their sums [Count, 32]. The block is of one
// group, or each half is of its own.
template <int Count, int Groups, typename Weights>
void add_block(const Weights& weights, const Group& group, const Inputs& tokens, int64_t first, float* sums) {
  const Inputs x = tokens.at(first);
  constexpr int64_t kGroupLines = kLines / Groups;
  for (int turn = 0; turn < kParts * Groups; ++turn) {
    const int part = turn % kParts, of = turn / kParts;
    Sums<Count> found;
    found.each([&](IntPart& sum, int m, int) {
      sum = IntPart{} - weights.offset() * x.scaled[m].sum<Groups>(of);
    });
    add_lines<Count, kGroupLines>(weights, x, of * kGroupLines, part, found);
    found.each([&](IntPart& sum, int m, int half) {
      const int64_t output = half * kLanes + part * kPartLanes;
      add_scaled(sum, group.scales + of * kTile + output, x.scaled[m].scale, sums + m * kTile + output);
    });
    if (group.offsets && part == kParts - 1)
      add_offsets<Groups>(group.offsets + of * kTile, x, of, Count, sums);
  }
}

// Adds a block's products of `count` tokens from `first` on.
template <int Groups, typename Weights>
void add_tokens(const Weights& weights, const Group& group, const Inputs& x, int64_t first, int64_t count,
                float* sums) {
  for (int64_t m = 0; m < count;) {
    const auto add = [&]<int Count>() {
      add_block<Count, Groups>(weights, group, x, first + m, sums + m * kTile);
      m += Count;
    };
    const int64_t left = count - m;
    if (kTogether == 8 && left >= 8)
      add.template operator()<8>();
    else if (left >= 4)
      add.template operator()<4>();
    else if (left >= 2)
      add.template operator()<2>();
    else
      add.template operator()<1>();
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

  // What a block of a tile is of, or its first half.
  Group group_of(int64_t tile, int64_t block) const {
    const int64_t at = (tile * groups() + (group ? block * kBlock / group : 0)) * kTile;
    return {scales + at, offsets ? offsets + at : nullptr};
  }

  // Whether the codes follow each other, so that a weight's number is itself one of them but for the first code.
  bool counts() const {
    for (int place = 0; place < 16; ++place)
      if (codes[place] != codes[0] + place) return false;
    return true;
  }

  bool narrow() const {
    return std::all_of(codes, codes + 16, [](int code) { return std::abs(code) <= kNarrowCode; });
  }
};

// Where the products of a layer with some tokens go: the first token's outputs, the next one's `stride` behind them.
struct Out {
  float* values;
  int64_t stride;
};

// Adds the bias and writes what is kept of a tile's outputs of one token.
inline void finish(float* sums, const float* bias, int64_t kept, float* y) {
  if (bias)
    for (int64_t n = 0; n < kTile; n += kLanes) store(sums + n, load(sums + n) + load(bias + n));
  std::memcpy(y, sums, kept * sizeof(float));
}

// Adds a block's products of tokens [first, first + count), and those of their rests.
template <int Groups, typename Weights>
void add_all(const Weights& weights, const Group& group, const Tokens& tokens, int64_t block, int64_t first,
             int64_t count, float* sums) {
  const int64_t at = block * tokens.count + first;
  add_tokens<Groups>(weights, group, tokens.rounded.inputs(), at, count, sums);
  if (tokens.rest_count == 0) return;
  for (int64_t m = 0; m < count; ++m)
    if (const int32_t rest = tokens.rests[at + m]; rest >= 0)
      add_block<1, Groups>(weights, group, tokens.of_rests.inputs(), rest, sums + m * kTile);
}

// A tile of outputs of all tokens.
template <int Groups, typename Weights>
void multiply_tile(const Layer& layer, const Weights& weights, int64_t tile, const Tokens& tokens, Out y) {
  const int64_t begin = tile * kTile, kept = std::min(kTile, layer.outputs - begin);
  for (int64_t first = 0; first < tokens.count; first += kMost) {
    const int64_t some = std::min(kMost, tokens.count - first);
    alignas(64) float sums[kMost * kTile];
    std::fill_n(sums, some * kTile, 0.0f);
    for (int64_t block = 0; block < tokens.blocks; ++block)
      add_all<Groups>(weights.at(block), layer.group_of(tile, block), tokens, block, first, some, sums);
    for (int64_t m = 0; m < some; ++m)
      finish(sums + m * kTile, layer.bias ? layer.bias + begin : nullptr, kept,
             y.values + (first + m) * y.stride + begin);
  }
}

template <bool Narrow>
Coded<Narrow> coded(const uint8_t* weights, const int8_t* codes) {
  uint8_t table[16];
  for (int place = 0; place < 16; ++place) table[place] = static_cast<uint8_t>(codes[place] + Coded<Narrow>::offset());
  return {weights, load_table(table)};
}

// A tile of outputs of all tokens, by how its weights are kept.
inline void multiply_tile(const Layer& layer, int64_t tile, const Tokens& tokens, Out y) {
  const int64_t weights = tokens.blocks * kBlock * kTile;
  const auto multiply = [&](const auto& of_tile) {
    if (layer.group == kHalf)
      multiply_tile<2>(layer, of_tile, tile, tokens, y);
    else
      multiply_tile<1>(layer, of_tile, tile, tokens, y);
  };
  const uint8_t* four = layer.packed + tile * weights / 2;
  if (!layer.codes)
    multiply(Eight{layer.packed + tile * weights});
  else if (layer.counts())
    multiply(Four{four, -layer.codes[0]});
  else if (layer.narrow())
    multiply(coded<kNarrow>(four, layer.codes));
  else
    multiply(coded<false>(four, layer.codes));
}

// x [count, K] as integers. They lie in what the thread keeps for this from one layer to the next.
inline const Tokens& as_tokens(const float* x, int64_t x_stride, int64_t count, int64_t inputs) {
  static thread_local Tokens made;
  made.take(x, x_stride, count, inputs);
  return made;
}

// x [count, K] -> y [count, N], tokens `x_stride` apart.
inline void multiply(const Layer& layer, const float* x, int64_t x_stride, int64_t count, Out y) {
  const Tokens& tokens = as_tokens(x, x_stride, count, layer.inputs);
  Pool::instance().run(tiles_of(layer.outputs), [&](int64_t tile) { multiply_tile(layer, tile, tokens, y); });
}

}  // namespace quantized
