// bfloat16 in memory, float32 in registers: how each level of CPU widens, rounds and multiplies it.

#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "vectors.h"

// Sixteen bfloat16 that follow each other.
[[gnu::always_inline]] inline Floats widened(const uint16_t* values) {
  return each_part<Floats>([&](int index) {
#if defined(__AVX512F__)
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    return (FloatPart)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#elif defined(__AVX2__)
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 8 * index));
    return (FloatPart)_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
#else
    return (FloatPart)vshll_n_u16(vld1_u16(values + 4 * index), 16);
#endif
  });
}

// Sixteen floats as bfloat16, rounded to the nearest, ties to even. What is no number stays none.
[[gnu::always_inline]] inline void narrow(const Floats& values, uint16_t* to) {
#if defined(__AVX512BF16__)
  const __m256bh nearest = _mm512_cvtneps_pbh((__m512)values.part[0]);
  std::memcpy(to, &nearest, sizeof(nearest));
#else
  using Halves [[gnu::vector_size(kBytes / 2)]] = uint16_t;
#pragma GCC unroll 4
  for (int index = 0; index < kParts; ++index) {
    const FloatPart value = values.part[index];
    const auto word = (WordPart)value;
    const WordPart nearest = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    const WordPart rounded = value == value ? nearest : (word >> 16 | 0x40);
    const Halves halves = __builtin_convertvector(rounded, Halves);
    std::memcpy(to + index * kPartLanes, &halves, sizeof(halves));
  }
#endif
}

// What tokens are multiplied in, and sixteen pairs of weights as the CPU multiplies them.
#if defined(__AVX512BF16__)

using Input = uint16_t;  // bfloat16
using Pairs = __m512bh;

[[gnu::always_inline]] inline Pairs load_pairs(const void* from) { return (Pairs)_mm512_loadu_si512(from); }

// sums + two[0] first + two[1] second, for sixteen pairs (first, second).
[[gnu::always_inline]] inline Floats add_products(const Floats& sums, const Input* two, const Pairs& pairs) {
  int32_t both;
  std::memcpy(&both, two, sizeof(both));
  return {{(FloatPart)_mm512_dpbf16_ps((__m512)sums.part[0], (__m512bh)_mm512_set1_epi32(both), pairs)}};
}

inline void as_inputs(const uint16_t* from, int64_t count, Input* to) {
  std::memcpy(to, from, count * sizeof(Input));
}

inline void as_inputs(const float* from, int64_t count, Input* to) {
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t first = 0; first < whole; first += kLanes) narrow(load(from + first), to + first);
  if (whole == count) return;
  uint16_t held[kLanes];
  narrow(load_some(from + whole, count - whole), held);
  std::memcpy(to + whole, held, (count - whole) * sizeof(uint16_t));
}

#else

using Input = float;
struct Pairs {
  Floats first, second;
};

[[gnu::always_inline]] inline Pairs load_pairs(const void* from) {
  const auto words = load<Words>(static_cast<const uint32_t*>(from));
  return {same_bits<Floats>(words << 16), same_bits<Floats>(words & all_words(0xffff0000))};
}

// sums + two[0] first + two[1] second, for sixteen pairs (first, second).
[[gnu::always_inline]] inline Floats add_products(const Floats& sums, const Input* two, const Pairs& pairs) {
  return fused(all(two[1]), pairs.second, fused(all(two[0]), pairs.first, sums));
}

inline void as_inputs(const uint16_t* from, int64_t count, Input* to) {
  for (int64_t index = 0; index < count; ++index)
    to[index] = std::bit_cast<float>(static_cast<uint32_t>(from[index]) << 16);
}

inline void as_inputs(const float* from, int64_t count, Input* to) {
  std::memcpy(to, from, count * sizeof(Input));
}

#endif
