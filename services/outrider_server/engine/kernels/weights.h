// Weights of a linear layer in memory, and how the CPU multiplies them: a format for bfloat16, float16 and float32.
//
// A line holds the weights of 32 outputs for two inputs that follow each other. A format knows where in it each of
// them lies, what tokens are multiplied in, and adds 16 outputs' products of two inputs to their sums. The order of
// the sums is the same in every format: the first input's product, then the second's.

#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "bfloat16.h"
#include "float16.h"
#include "vectors.h"

namespace weights {

constexpr int64_t kTile = 32;   // outputs
constexpr int64_t kGroups = 2;  // of 16 of them
constexpr int64_t kLine = 2 * kTile;

// Two inputs' weights lie beside each other, as VDPBF16PS and TDPBF16PS take them. Where the CPU has these, inputs are
// rounded to bfloat16; elsewhere weights are widened.
struct Bfloat16 {
  using Stored = uint16_t;
  using Input = ::Input;
  using Pairs = ::Pairs;

  static int64_t place(int64_t output, int64_t input) { return output * 2 + input; }

  static float value(Stored stored) { return std::bit_cast<float>(static_cast<uint32_t>(stored) << 16); }

  [[gnu::always_inline]] static Pairs load(const Stored* line, int64_t group) {
    return load_pairs(line + group * kLanes * 2);
  }

  [[gnu::always_inline]] static Floats add(const Floats& sums, const Input* two, const Pairs& pairs) {
    return add_products(sums, two, pairs);
  }

  static void as_inputs(const float* from, int64_t count, Input* to) { ::as_inputs(from, count, to); }
};

// The weights of the first input, then those of the second; widened where they have 16 bits.
template <typename Element, Floats (*widen)(const Element*)>
struct Widened {
  using Stored = Element;
  using Input = float;
  struct Pairs {
    Floats first, second;
  };

  static int64_t place(int64_t output, int64_t input) { return input * kTile + output; }

  static float value(Stored stored) {
    Element held[kLanes] = {stored};
    float values[kLanes];
    store(values, widen(held));
    return values[0];
  }

  [[gnu::always_inline]] static Pairs load(const Stored* line, int64_t group) {
    return {widen(line + group * kLanes), widen(line + kTile + group * kLanes)};
  }

  [[gnu::always_inline]] static Floats add(const Floats& sums, const Input* two, const Pairs& pairs) {
    return fused(all(two[1]), pairs.second, fused(all(two[0]), pairs.first, sums));
  }

  static void as_inputs(const float* from, int64_t count, Input* to) { std::memcpy(to, from, count * sizeof(Input)); }
};

[[gnu::always_inline]] inline Floats loaded(const float* values) { return load(values); }

using Float16 = Widened<uint16_t, widened_half>;
using Float32 = Widened<float, loaded>;

}  // namespace weights
