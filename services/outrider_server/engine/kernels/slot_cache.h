// The slot cache: keys and values of many sessions, as attention multiplies them.
//
// It is made of lines: sixteen pairs of numbers, which the CPU loads and multiplies at once. A line of keys has sixteen
// positions by two of the head's dimensions, a line of values sixteen dimensions by two positions. Dimensions that fill
// up a line are zero: whoever makes a cache fills it with zeros, and nothing else is ever written there.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bfloat16.h"
#include "float16.h"
#include "pool.h"
#include "vectors.h"

namespace slots {

constexpr int64_t kLargest = 256;  // head_dim
constexpr int64_t kLine = 2 * kLanes;

struct Shape {
  int64_t tokens, heads, key_heads, head_dim;
  int64_t length;  // positions of a slot, a multiple of 64

  int64_t pairs() const { return (head_dim + 1) / 2; }               // lines of sixteen keys
  int64_t groups() const { return (head_dim + kLanes - 1) / kLanes; }  // lines of two values
  int64_t padded() const { return groups() * kLanes; }               // dimensions of a value
  int64_t key_size() const { return length / kLanes * pairs() * kLine; }
  int64_t value_size() const { return length / 2 * groups() * kLine; }
};

// [tokens, heads, head_dim], the last dimension dense, strides in floats.
template <typename Value>
struct Rows {
  Value* values;
  int64_t token_stride, head_stride;

  Value* at(int64_t token, int64_t head) const { return values + token * token_stride + head * head_stride; }
};

// Of bfloat16 (uint16_t), Half or float.
template <typename Element>
struct Cache {
  Element* keys;    // [slots, key_heads, length / 16, pairs] lines
  Element* values;  // [slots, key_heads, length / 2, groups] lines
};

struct Half {
  uint16_t bits;
};

// Sixteen pairs in registers.
struct Two {
  Floats first, second;
};

// How a line lies in memory, and how it is read: as `Pairs` to be multiplied by a query's two numbers, or as numbers.

template <typename Element>
struct Line {
  using Query = float;
  using Product = Two;

  static constexpr int64_t place(int64_t lane, int64_t half) { return half * kLanes + lane; }
};

template <>
struct Line<uint16_t> {
  using Query = Input;
  using Product = Pairs;

  static constexpr int64_t place(int64_t lane, int64_t half) { return lane * 2 + half; }
};

[[gnu::always_inline]] inline Floats widened(const float* values) { return load(values); }

[[gnu::always_inline]] inline Floats widened(const Half* values) { return widened_half(&values->bits); }

[[gnu::always_inline]] inline void narrow(const Floats& values, float* to) { store(to, values); }

// Rounded to the nearest, ties to even; what is too large becomes infinite.
[[gnu::always_inline]] inline void narrow(const Floats& values, Half* to) {
#pragma GCC unroll 4
  for (int index = 0; index < kParts; ++index) {
#if defined(__AVX512F__)
    const auto halves = _mm512_cvtps_ph((__m512)values.part[index], _MM_FROUND_TO_NEAREST_INT);
#elif defined(__AVX2__)
    const auto halves = _mm256_cvtps_ph((__m256)values.part[index], _MM_FROUND_TO_NEAREST_INT);
#else
    const auto halves = vcvt_f16_f32((float32x4_t)values.part[index]);
#endif
    std::memcpy(to + index * kPartLanes, &halves, sizeof(halves));
  }
}

template <typename Element>
[[gnu::always_inline]] inline Two both_of(const Element* line) {
  return {widened(line), widened(line + kLanes)};
}

[[gnu::always_inline]] inline Two both_of(const uint16_t* line) {
  const auto words = load<Words>(reinterpret_cast<const uint32_t*>(line));
  return {same_bits<Floats>(words << 16), same_bits<Floats>(words & all_words(0xffff0000))};
}

template <typename Element>
[[gnu::always_inline]] inline Two line_of(const Element* line) {
  return both_of(line);
}

[[gnu::always_inline]] inline Pairs line_of(const uint16_t* line) { return load_pairs(line); }

// sums + two[0] first + two[1] second.
[[gnu::always_inline]] inline Floats add_products(const Floats& sums, const float* two, const Two& pairs) {
  return fused(all(two[1]), pairs.second, fused(all(two[0]), pairs.first, sums));
}

// A head's `count` numbers as elements, zeros behind them up to a multiple of sixteen.
template <typename Element>
void as_elements(const float* from, int64_t count, Element* to) {
  for (int64_t d = 0; d < count; d += kLanes) narrow(load_some(from + d, count - d), to + d);
}

template <typename Element>
void remember_key(const Shape& shape, const float* key, int64_t position, Element* keys) {
  Element held[kLargest];
  as_elements(key, shape.head_dim, held);
  Element* lines = keys + position / kLanes * shape.pairs() * kLine;
  const int64_t lane = position % kLanes;
  for (int64_t d = 0; d < shape.head_dim; ++d)
    lines[d / 2 * kLine + Line<Element>::place(lane, d % 2)] = held[d];
}

template <typename Element>
void remember_value(const Shape& shape, const float* value, int64_t position, Element* values) {
  Element held[kLargest];
  as_elements(value, shape.head_dim, held);
  Element* lines = values + position / 2 * shape.groups() * kLine;
  for (int64_t d = 0; d < shape.head_dim; ++d)
    lines[d / kLanes * kLine + Line<Element>::place(d % kLanes, position % 2)] = held[d];
}

// Writes the tokens' keys and values at their places: slots and positions [tokens].
template <typename Element>
void remember(const Shape& shape, const Cache<Element>& cache, const Rows<const float>& keys,
              const Rows<const float>& values, const int64_t* slots, const int64_t* positions) {
  constexpr int64_t kWorthSharing = 8192;  // numbers
  const auto head = [&](int64_t key_head) {
    for (int64_t token = 0; token < shape.tokens; ++token) {
      const int64_t at = slots[token] * shape.key_heads + key_head;
      remember_key(shape, keys.at(token, key_head), positions[token], cache.keys + at * shape.key_size());
      remember_value(shape, values.at(token, key_head), positions[token], cache.values + at * shape.value_size());
    }
  };
  if (shape.tokens * shape.key_heads * shape.head_dim >= kWorthSharing)
    Pool::instance().run(shape.key_heads, head);
  else
    for (int64_t key_head = 0; key_head < shape.key_heads; ++key_head) head(key_head);
}

}  // namespace slots
