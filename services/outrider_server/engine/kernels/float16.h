// float16 in memory, float32 in registers.

#pragma once

#include <cstdint>

#include "vectors.h"

// Sixteen float16 that follow each other, as float32.
[[gnu::always_inline]] inline Floats widened_half(const uint16_t* values) {
  return each_part<Floats>([&](int index) {
#if defined(__AVX512F__)
    return (FloatPart)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
#elif defined(__AVX2__)
    return (FloatPart)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 8 * index)));
#else
    return (FloatPart)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(values + 4 * index)));
#endif
  });
}
