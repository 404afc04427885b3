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

  // Of both halves, or of one.
  template <int Halves>
  [[gnu::always_inline]] int32_t sum(int half) const {
    return Halves == 2 ? sums[0] + sums[1] : sums[half];
  }
};

inline int32_t sum_of(IntPart lanes) {
  int32_t sum = 0;
  for (int lane = 0; lane < kPartLanes; ++lane) sum += lanes[lane];
  return sum;
}

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
  int32_t most = 0;
  for (int lane = 0; lane < kPartLanes; ++lane) most = std::max<int32_t>(most, largest[lane]);
  return std::bit_cast<float>(most);
}

// Tokens, padded with zeros to whole blocks.
struct Tokens {
  int64_t blocks;
  std::vector<Whole> integers;       // [tokens, blocks, 64]
  std::vector<Scaled> scaled;        // [tokens, blocks]
  std::vector<int32_t> rests;        // [tokens, blocks]: which of the rests is theirs, -1 where none is
  std::vector<Whole> rest_integers;  // [rests, 64]
  std::vector<Scaled> rest_scaled;   // [rests]

  // `x` is [count, inputs], tokens `stride` apart.
  Tokens(const float* x, int64_t stride, int64_t count, int64_t inputs)
      : blocks(blocks_of(inputs)), integers(count * blocks * kBlock), scaled(count * blocks),
        rests(count * blocks, -1) {
    for (int64_t m = 0; m < count; ++m)
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * kBlock, kept = std::min(kBlock, inputs - first);
        float values[kBlock] = {};
        std::memcpy(values, x + m * stride + first, kept * sizeof(float));
        add(values, m * blocks + block);
      }
  }

 private:
  void add(float* values, int64_t at) {
    const float largest = largest_magnitude(values);
    Whole* to = integers.data() + at * kBlock;
    if (!(largest < std::numeric_limits<float>::infinity())) {
      scaled[at] = {std::numeric_limits<float>::quiet_NaN(), {}};
    } else if (largest >= kLeast) {
      const float inverse = kLargest / largest;
      scaled[at].scale = largest / kLargest;
      const int32_t magnitude = round_all(values, inverse, to, scaled[at].sums);
      if (magnitude * kUsual < kLargest * kBlock) add_rest(values, to, at, inverse);
    }
  }

  void add_rest(float* values, const Whole* to, int64_t at, float inverse) {
    const float scale = scaled[at].scale;
    for (int64_t k = 0; k < kBlock; ++k) values[k] -= static_cast<float>(to[k]) * scale;
    rests[at] = static_cast<int32_t>(rest_scaled.size());
    rest_integers.resize(rest_integers.size() + kBlock);
    rest_scaled.push_back({scale / kFiner, {}});
    round_all(values, inverse * kFiner, rest_integers.data() + rests[at] * kBlock, rest_scaled.back().sums);
  }
};

}  // namespace quantized
