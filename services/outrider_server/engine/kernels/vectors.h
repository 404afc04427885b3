// Sixteen lanes of numbers, in as many registers as the CPU needs for them: one of 512 bits, two of 256 or four
// of 128. The kernels' arithmetic is written over these, once; what a level of CPU does by an instruction of its
// own stands here and nowhere else.
//
// Every operation works lane by lane in a fixed order, so that a level gives the same bits whatever it is used for.
// Lanes in arrays stay in registers only where all loops over these are unrolled.

#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <bit>
#include <cstdint>
#include <cstring>

// The level that this is compiled for, as levels.py names it; nothing where it is none of them.
#if defined(__AMX_BF16__)
constexpr const char* kLevel = "amx";
#elif defined(__AVX512BF16__)
constexpr const char* kLevel = "avx512_bf16";
#elif defined(__AVX512VNNI__)
constexpr const char* kLevel = "avx512_vnni";
#elif defined(__AVX512F__)
constexpr const char* kLevel = "avx512";
#elif defined(__AVX2__)
constexpr const char* kLevel = "avx2";
#elif defined(__ARM_NEON)
constexpr const char* kLevel = "neon";
#else
constexpr const char* kLevel = "";
#endif

constexpr int kLanes = 16;

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

constexpr int kParts = kLanes * 4 / kBytes;
constexpr int kPartLanes = kBytes / 4;

using FloatPart [[gnu::vector_size(kBytes)]] = float;
using IntPart [[gnu::vector_size(kBytes)]] = int32_t;
using WordPart [[gnu::vector_size(kBytes)]] = uint32_t;
using WidePart [[gnu::vector_size(kBytes)]] = uint64_t;

// Sixteen values: floats, signed and unsigned integers of 32 bits. Comparisons give Masks: all bits of a lane or none.
template <typename Register>
struct Lanes {
  using Part = Register;
  Part part[kParts];
};

using Floats = Lanes<FloatPart>;
using Masks = Lanes<IntPart>;
using Words = Lanes<WordPart>;
// Eight values of 64 bits.
using Wides = Lanes<WidePart>;

template <typename To, typename Operation>
[[gnu::always_inline]] inline To each_part(const Operation& operation) {
  To to;
#pragma GCC unroll 4
  for (int index = 0; index < kParts; ++index) to.part[index] = operation(index);
  return to;
}

#define OUTRIDER_OPERATOR(sign)                                                                   \
  template <typename Part>                                                                        \
  [[gnu::always_inline]] inline Lanes<Part> operator sign(const Lanes<Part>& a, const Lanes<Part>& b) { \
    return each_part<Lanes<Part>>([&](int index) { return a.part[index] sign b.part[index]; });   \
  }
OUTRIDER_OPERATOR(+)
OUTRIDER_OPERATOR(-)
OUTRIDER_OPERATOR(*)
OUTRIDER_OPERATOR(/)
OUTRIDER_OPERATOR(^)
OUTRIDER_OPERATOR(&)
OUTRIDER_OPERATOR(|)
#undef OUTRIDER_OPERATOR

// Each lane by its own number of bits.
[[gnu::always_inline]] inline Words operator>>(const Words& a, const Words& bits) {
  return each_part<Words>([&](int index) { return a.part[index] >> bits.part[index]; });
}

template <typename Part>
[[gnu::always_inline]] inline Lanes<Part> operator>>(const Lanes<Part>& a, int bits) {
  return each_part<Lanes<Part>>([&](int index) { return a.part[index] >> bits; });
}

template <typename Part>
[[gnu::always_inline]] inline Lanes<Part> operator<<(const Lanes<Part>& a, int bits) {
  return each_part<Lanes<Part>>([&](int index) { return a.part[index] << bits; });
}

// Minus zero, as nothing is changed by it, not even a zero's sign, and so nothing is computed.
[[gnu::always_inline]] inline Floats all(float value) {
  return each_part<Floats>([&](int) { return value - FloatPart{}; });
}

[[gnu::always_inline]] inline Words all_words(uint32_t value) {
  return each_part<Words>([&](int) { return value - WordPart{}; });
}

[[gnu::always_inline]] inline Wides all_wides(uint64_t value) {
  return each_part<Wides>([&](int) { return value - WidePart{}; });
}

// The 64 bytes from `from` on, which need not be aligned.
template <typename To, typename From>
[[gnu::always_inline]] inline To load(const From* from) {
  return each_part<To>([&](int index) {
    typename To::Part part;
    std::memcpy(&part, from + index * (kBytes / sizeof(From)), kBytes);
    return part;
  });
}

[[gnu::always_inline]] inline Floats load(const float* from) { return load<Floats>(from); }

// The first `count` of sixteen, zeros behind them.
inline Floats load_some(const float* from, int64_t count) {
  if (count >= kLanes) return load(from);
  float held[kLanes] = {};
  if (count > 0) std::memcpy(held, from, count * sizeof(float));
  return load(held);
}

template <typename Value, typename Part>
[[gnu::always_inline]] inline void store(Value* to, const Lanes<Part>& from) {
  static_assert(sizeof(Value) == sizeof(float));
#pragma GCC unroll 4
  for (int index = 0; index < kParts; ++index)
    std::memcpy(to + index * kPartLanes, &from.part[index], kBytes);
}

template <typename To, typename Part>
[[gnu::always_inline]] inline To same_bits(const Lanes<Part>& from) {
  return each_part<To>([&](int index) { return std::bit_cast<typename To::Part>(from.part[index]); });
}

// a b + c, rounded once.
[[gnu::always_inline]] inline FloatPart fused(FloatPart a, FloatPart b, FloatPart c) {
#if defined(__AVX512F__)
  return (FloatPart)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (FloatPart)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return (FloatPart)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#endif
}

[[gnu::always_inline]] inline Floats fused(const Floats& a, const Floats& b, const Floats& c) {
  return each_part<Floats>([&](int index) { return fused(a.part[index], b.part[index], c.part[index]); });
}

// The larger one; b where either is no number.
[[gnu::always_inline]] inline Floats larger(const Floats& a, const Floats& b) {
  return each_part<Floats>([&](int index) {
#if defined(__AVX512F__)
    return (FloatPart)_mm512_max_ps((__m512)a.part[index], (__m512)b.part[index]);
#elif defined(__AVX2__)
    return (FloatPart)_mm256_max_ps((__m256)a.part[index], (__m256)b.part[index]);
#else
    return a.part[index] > b.part[index] ? a.part[index] : b.part[index];
#endif
  });
}

// The smaller one; b where either is no number.
[[gnu::always_inline]] inline Floats smaller(const Floats& a, const Floats& b) {
  return each_part<Floats>([&](int index) {
#if defined(__AVX512F__)
    return (FloatPart)_mm512_min_ps((__m512)a.part[index], (__m512)b.part[index]);
#elif defined(__AVX2__)
    return (FloatPart)_mm256_min_ps((__m256)a.part[index], (__m256)b.part[index]);
#else
    return a.part[index] < b.part[index] ? a.part[index] : b.part[index];
#endif
  });
}

// The next whole number, ties to even.
[[gnu::always_inline]] inline Floats rounded(const Floats& a) {
  return each_part<Floats>([&](int index) {
#if defined(__AVX512F__)
    return (FloatPart)_mm512_roundscale_ps((__m512)a.part[index], _MM_FROUND_TO_NEAREST_INT);
#elif defined(__AVX2__)
    return (FloatPart)_mm256_round_ps((__m256)a.part[index], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return (FloatPart)vrndnq_f32((float32x4_t)a.part[index]);
#endif
  });
}

// The next whole number below.
[[gnu::always_inline]] inline Floats floored(const Floats& a) {
  return each_part<Floats>([&](int index) {
#if defined(__AVX512F__)
    return (FloatPart)_mm512_roundscale_ps((__m512)a.part[index], _MM_FROUND_TO_NEG_INF);
#elif defined(__AVX2__)
    return (FloatPart)_mm256_round_ps((__m256)a.part[index], _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    return (FloatPart)vrndmq_f32((float32x4_t)a.part[index]);
#endif
  });
}

// a 2^whole for a whole number of at least -126; for one above 127 at least a 2^127. What is no number in a stays
// none.
[[gnu::always_inline]] inline Floats scaled(const Floats& a, const Floats& whole) {
  return each_part<Floats>([&](int index) {
#if defined(__AVX512F__)
    return (FloatPart)_mm512_scalef_ps((__m512)a.part[index], (__m512)whole.part[index]);
#else
    const FloatPart most = FloatPart{} + 127.0f;
    const FloatPart bounded = whole.part[index] < most ? whole.part[index] : most;
    const IntPart exponent = __builtin_convertvector(bounded, IntPart) + 127;
    return a.part[index] * (FloatPart)(exponent << 23);
#endif
  });
}

[[gnu::always_inline]] inline Floats select(const Masks& masks, const Floats& a, const Floats& b) {
  return each_part<Floats>([&](int index) { return masks.part[index] ? a.part[index] : b.part[index]; });
}

// The lanes whose index is below `count`.
[[gnu::always_inline]] inline Masks first_lanes(int64_t count) {
  return each_part<Masks>([&](int index) {
    IntPart lanes;
    for (int lane = 0; lane < kPartLanes; ++lane) lanes[lane] = index * kPartLanes + lane;
    return lanes < (IntPart{} + static_cast<int32_t>(count < kLanes ? count : kLanes));
  });
}

// True too where either is no number.
[[gnu::always_inline]] inline Masks not_below(const Floats& a, const Floats& b) {
  return each_part<Masks>([&](int index) { return ~(a.part[index] < b.part[index]); });
}

// True too where either is no number.
[[gnu::always_inline]] inline Masks not_at_most(const Floats& a, const Floats& b) {
  return each_part<Masks>([&](int index) { return ~(a.part[index] <= b.part[index]); });
}

// True too where either is no number.
[[gnu::always_inline]] inline Masks not_above(const Floats& a, const Floats& b) {
  return each_part<Masks>([&](int index) { return ~(a.part[index] > b.part[index]); });
}

[[gnu::always_inline]] inline Masks differ(const Words& a, const Words& b) {
  return each_part<Masks>([&](int index) { return a.part[index] != b.part[index]; });
}

// A bit for each of the first `count` lanes.
inline uint32_t low_bits(int64_t count) { return count >= kLanes ? 0xffff : (1u << count) - 1; }

// A bit for each lane, the first lane's lowest.
[[gnu::always_inline]] inline uint32_t bits_of(const Masks& masks) {
  uint32_t bits = 0;
#pragma GCC unroll 4
  for (int index = 0; index < kParts; ++index) {
#if defined(__AVX512F__)
    bits |= static_cast<uint32_t>(_mm512_movepi32_mask((__m512i)masks.part[index]));
#elif defined(__AVX2__)
    bits |= static_cast<uint32_t>(_mm256_movemask_ps((__m256)masks.part[index])) << (8 * index);
#else
    const uint32x4_t places = {1, 2, 4, 8};
    bits |= vaddvq_u32(vandq_u32((uint32x4_t)masks.part[index], places)) << (4 * index);
#endif
  }
  return bits;
}

inline float sum_of(const Floats& a) {
  float held[kLanes];
  store(held, a);
  for (int half = kLanes / 2; half; half /= 2)
    for (int lane = 0; lane < half; ++lane) held[lane] += held[lane + half];
  return held[0];
}

inline float largest_of(const Floats& a) {
  float held[kLanes];
  store(held, a);
  for (int half = kLanes / 2; half; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      held[lane] = held[lane] > held[lane + half] ? held[lane] : held[lane + half];
  return held[0];
}

// Whole numbers of floats below 2^31 that are not negative.
[[gnu::always_inline]] inline Words as_words(const Floats& whole) {
  return each_part<Words>([&](int index) { return (WordPart)__builtin_convertvector(whole.part[index], IntPart); });
}

[[gnu::always_inline]] inline Floats as_floats(const Words& words) {
  return each_part<Floats>([&](int index) { return __builtin_convertvector(words.part[index], FloatPart); });
}

// The products of the lower halves of eight lanes of 64 bits.
[[gnu::always_inline]] inline Wides wide_products(const Wides& a, const Wides& b) {
  return each_part<Wides>([&](int index) {
#if defined(__AVX512F__)
    return (WidePart)_mm512_mul_epu32((__m512i)a.part[index], (__m512i)b.part[index]);
#elif defined(__AVX2__)
    return (WidePart)_mm256_mul_epu32((__m256i)a.part[index], (__m256i)b.part[index]);
#else
    return (WidePart)vmull_u32(vmovn_u64((uint64x2_t)a.part[index]), vmovn_u64((uint64x2_t)b.part[index]));
#endif
  });
}
