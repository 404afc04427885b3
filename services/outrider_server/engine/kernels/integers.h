// Bytes in registers: how each level of CPU looks them up and multiplies weights of 8 bits with inputs of 8 bits.
//
// A weight is unsigned here, 128 more than what it stands for. All of it is exact, so every level gives the same bits.

#pragma once

#include <cstdint>
#include <cstring>

#include "vectors.h"

using BytePart [[gnu::vector_size(kBytes)]] = uint8_t;
using PairPart [[gnu::vector_size(kBytes)]] = int16_t;

template <typename Part, typename From>
[[gnu::always_inline]] inline Part load_part(const From* from) {
  Part part;
  static_assert(sizeof(part) == kBytes);
  std::memcpy(&part, from, kBytes);
  return part;
}

// A table of sixteen bytes, again in every 128 bits of a register.
inline BytePart load_table(const uint8_t* table) {
  BytePart loaded;
  for (int place = 0; place < kBytes; ++place) loaded[place] = table[place % 16];
  return loaded;
}

// The table's bytes at these places, each below 16.
[[gnu::always_inline]] inline BytePart looked_up(BytePart table, BytePart places) {
#if defined(__AVX512F__)
  return (BytePart)_mm512_shuffle_epi8((__m512i)table, (__m512i)places);
#elif defined(__AVX2__)
  return (BytePart)_mm256_shuffle_epi8((__m256i)table, (__m256i)places);
#else
  return (BytePart)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)places);
#endif
}

#if defined(__AVX512F__)
inline int32_t sum_of(IntPart lanes) { return _mm512_reduce_add_epi32((__m512i)lanes); }
inline int32_t largest_of(IntPart lanes) { return _mm512_reduce_max_epi32((__m512i)lanes); }
#elif defined(__AVX2__)
template <typename Operation>
[[gnu::always_inline]] inline int32_t joined(IntPart lanes, const Operation& operation) {
  const __m128i four = operation(_mm256_castsi256_si128((__m256i)lanes), _mm256_extracti128_si256((__m256i)lanes, 1));
  const __m128i two = operation(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(operation(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline int32_t sum_of(IntPart lanes) {
  return joined(lanes, [](__m128i a, __m128i b) { return _mm_add_epi32(a, b); });
}
inline int32_t largest_of(IntPart lanes) {
  return joined(lanes, [](__m128i a, __m128i b) { return _mm_max_epi32(a, b); });
}
#else
inline int32_t sum_of(IntPart lanes) { return vaddvq_s32((int32x4_t)lanes); }
inline int32_t largest_of(IntPart lanes) { return vmaxvq_s32((int32x4_t)lanes); }
#endif

// Whether weights of fewer than 8 bits have products of their own. Two products with weights of up to 128 fit into 16
// bits, and of eight lines those with weights below 16.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
constexpr bool kNarrow = true;

// sums + two products of every lane of 16 bits. `inputs` are four, in the order of the weights.
[[gnu::always_inline]] inline PairPart add_narrow(PairPart sums, const int8_t* inputs, BytePart weights) {
  int32_t all;
  std::memcpy(&all, inputs, sizeof(all));
#if defined(__AVX512F__)
  return sums + (PairPart)_mm512_maddubs_epi16((__m512i)weights, _mm512_set1_epi32(all));
#else
  return sums + (PairPart)_mm256_maddubs_epi16((__m256i)weights, _mm256_set1_epi32(all));
#endif
}

// The sums of two neighbours each.
[[gnu::always_inline]] inline IntPart pair_sums(PairPart sums) {
#if defined(__AVX512F__)
  return (IntPart)_mm512_madd_epi16((__m512i)sums, _mm512_set1_epi16(1));
#else
  return (IntPart)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(1));
#endif
}

// sums + the four products of every lane with weights of up to 128.
[[gnu::always_inline]] inline IntPart add_products(IntPart sums, const int8_t* inputs, BytePart weights) {
  return sums + pair_sums(add_narrow(PairPart{}, inputs, weights));
}
#else
constexpr bool kNarrow = false;
#endif

// An input, four weights of each lane's output as the CPU multiplies them, and where each of the four lies in them.
#if defined(__AVX512VNNI__)

using Whole = int8_t;
using Fours = BytePart;
constexpr int kPlaces[4] = {0, 1, 2, 3};

[[gnu::always_inline]] inline Fours as_fours(BytePart weights) { return weights; }

// sums + the four products of every lane.
[[gnu::always_inline]] inline IntPart add_products(IntPart sums, const Whole* inputs, const Fours& weights) {
  int32_t all;
  std::memcpy(&all, inputs, sizeof(all));
  return (IntPart)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(all));
}

#else

using Whole = int16_t;
struct Fours {
  PairPart first, second;  // two inputs each
};
constexpr int kPlaces[4] = {0, 2, 1, 3};

[[gnu::always_inline]] inline Fours as_fours(BytePart weights) {
  using WordsPart [[gnu::vector_size(kBytes)]] = uint16_t;
  const auto words = (WordsPart)weights;
  return {(PairPart)(words & 255), (PairPart)(words >> 8)};
}

// sums + the two products of every lane.
[[gnu::always_inline]] inline IntPart add_pair(IntPart sums, const Whole* inputs, PairPart weights) {
  int32_t both;
  std::memcpy(&both, inputs, sizeof(both));
#if defined(__AVX512F__)
  return sums + (IntPart)_mm512_madd_epi16(_mm512_set1_epi32(both), (__m512i)weights);
#elif defined(__AVX2__)
  return sums + (IntPart)_mm256_madd_epi16(_mm256_set1_epi32(both), (__m256i)weights);
#else
  const int16x8_t pairs = vreinterpretq_s16_s32(vdupq_n_s32(both));
  const int32x4_t low = vmull_s16(vget_low_s16(pairs), vget_low_s16((int16x8_t)weights));
  const int32x4_t high = vmull_high_s16(pairs, (int16x8_t)weights);
  return sums + (IntPart)vpaddq_s32(low, high);
#endif
}

// sums + the four products of every lane.
[[gnu::always_inline]] inline IntPart add_products(IntPart sums, const Whole* inputs, const Fours& weights) {
  return add_pair(add_pair(sums, inputs, weights.first), inputs + 2, weights.second);
}

#endif
