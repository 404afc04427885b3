// Tokens as integers of 8 bits: what weights of 8 and 4 bits are multiplied with.
//
// A block of 64 inputs has a scale. Where one of them is so large that little would be left of the others, what the
// rounding took from all 64, the block's rest, is rounded in its turn, 128 times finer.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "integers.h"
#include "vectors.h"

namespace quantized {

constexpr int64_t kBlock = 64;            // inputs with a scale
constexpr int64_t kHalf = kBlock / 2;     // inputs whose sum is known
constexpr int kLargest = 127;             // integer that stands for an input
constexpr int kUsual = 16;                // the largest of 64 inputs is rarely so many times their mean
constexpr float kFiner = 128.0f;          // integers of a rest
constexpr float kLeast = 1e-30f;          // largest input of a block that is told from zero

constexpr int64_t blocks_of(int64_t inputs) { return (inputs + kBlock - 1) / kBlock; }

// What 64 integers stand for: `scale` times each.
struct Scaled {
  float scale;
  int32_t sums[2];  // of the first and of the second half

  // Of the block, or of a half where each is a group of its own.
  template <int Groups>
  [[gnu::always_inline]] int32_t sum(int half) const {
    return Groups == 1 ? sums[0] + sums[1] : sums[half];
  }
};

// A block of some tokens, one behind the other: [tokens, 64] and [tokens].
struct Inputs {
  const Whole* integers;
  const int8_t* bytes;
  const Scaled* scaled;

  Inputs at(int64_t token) const {
    return {integers + token * kBlock, kNarrow ? bytes + token * kBlock : nullptr, scaled + token};
  }
};

// 64 numbers, times `inverse`, as the nearest integers; returns the sum of their magnitudes and sets their sums.
inline int32_t round_all(const float* from, float inverse, Whole* to, int32_t (&sums)[2]) {
  using Wholes [[gnu::vector_size(kPartLanes * sizeof(Whole))]] = Whole;
  IntPart magnitudes{};
  for (int half = 0; half < 2; ++half) {
    IntPart added{};
    for (int64_t k = half * kHalf; k < (half + 1) * kHalf; k += kLanes) {
      const Floats nearest = rounded(load(from + k) * all(inverse));
      for (int part = 0; part < kParts; ++part) {
        const IntPart integers = __builtin_convertvector(nearest.part[part], IntPart);
        added += integers;
        magnitudes += integers < 0 ? -integers : integers;
        const Wholes narrow = __builtin_convertvector(integers, Wholes);
        std::memcpy(to + k + part * kPartLanes, &narrow, sizeof(narrow));
      }
    }
    sums[half] = sum_of(added);
  }
  return sum_of(magnitudes);
}

// The largest magnitude of 64 numbers; no number where one of them is none.
inline float largest_magnitude(const float* from) {
  IntPart largest{};
  for (int64_t k = 0; k < kBlock; k += kPartLanes) {
    const IntPart bits = load_part<IntPart>(from + k) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return std::bit_cast<float>(largest_of(largest));
}

// Blocks of 64 numbers, rounded.
struct Rounded {
  std::vector<Whole> integers;  // [blocks, 64]
  std::vector<int8_t> bytes;    // the same, four inputs in the order of a packed line, where the CPU multiplies them so
  std::vector<Scaled> scaled;   // [blocks]

  // There are no fewer than `blocks` from now on.
  void hold(int64_t blocks) {
    if (static_cast<int64_t>(scaled.size()) >= blocks) return;
    integers.resize(blocks * kBlock);
    if (kNarrow) bytes.resize(blocks * kBlock);
    scaled.resize(blocks);
  }

  Inputs inputs() const { return {integers.data(), bytes.data(), scaled.data()}; }

  // Rounds a block; returns the sum of its integers' magnitudes.
  int32_t round(const float* from, float scale, float inverse, int64_t block) {
    Whole* to = integers.data() + block * kBlock;
    scaled[block].scale = scale;
    const int32_t magnitude = round_all(from, inverse, to, scaled[block].sums);
    if (kNarrow) narrow(to, bytes.data() + block * kBlock);
    return magnitude;
  }

  // As bytes, four inputs in the order of the weights: the first, the third, the second and the fourth.
  static void narrow(const Whole* from, int8_t* to) {
    for (int64_t k = 0; k < kBlock; k += 4) {
      uint64_t four;
      std::memcpy(&four, from + k, sizeof(four));
      four &= 0x00ff00ff00ff00ff;
      const auto bytes = static_cast<uint32_t>(four | four >> 24);
      std::memcpy(to + k, &bytes, sizeof(bytes));
    }
  }

  void clear(float scale, int64_t block) {
    const float zeros[kBlock] = {};
    round(zeros, scale, 0.0f, block);
  }
};

// Tokens, padded with zeros to whole blocks. What they lie in may take others after them.
struct Tokens {
  int64_t count = 0, blocks = 0;
  Rounded rounded;             // [blocks, tokens, 64]
  std::vector<int32_t> rests;  // [blocks, tokens]: which of the rests is theirs, -1 where none is
  Rounded of_rests;
  int64_t rest_count = 0;

  // `x` is [count, inputs], tokens `stride` apart.
  void take(const float* x, int64_t stride, int64_t tokens, int64_t inputs) {
    count = tokens;
    blocks = blocks_of(inputs);
    rest_count = 0;
    rounded.hold(blocks * count);
    rests.assign(blocks * count, -1);
    for (int64_t m = 0; m < count; ++m)
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * kBlock, kept = std::min(kBlock, inputs - first);
        const float* from = x + m * stride + first;
        float padded[kBlock] = {};
        if (kept < kBlock) from = static_cast<const float*>(std::memcpy(padded, from, kept * sizeof(float)));
        add(from, block * count + m);
      }
  }

 private:
  void add(const float* values, int64_t at) {
    const float largest = largest_magnitude(values);
    if (!(largest < std::numeric_limits<float>::infinity()))
      return rounded.clear(std::numeric_limits<float>::quiet_NaN(), at);
    if (largest < kLeast) return rounded.clear(0.0f, at);
    const float inverse = kLargest / largest;
    const int32_t magnitude = rounded.round(values, largest / kLargest, inverse, at);
    if (magnitude * kUsual < kLargest * kBlock) add_rest(values, at, inverse);
  }

  void add_rest(const float* values, int64_t at, float inverse) {
    const Inputs taken = rounded.inputs().at(at);
    const float scale = taken.scaled->scale;
    float left[kBlock];
    for (int64_t k = 0; k < kBlock; ++k) left[k] = values[k] - static_cast<float>(taken.integers[k]) * scale;
    rests[at] = static_cast<int32_t>(rest_count++);
    of_rests.hold(rest_count);
    of_rests.round(left, scale / kFiner, inverse * kFiner, rests[at]);
  }
};

}  // namespace quantized
