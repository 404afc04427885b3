// Functions of sixteen numbers at once.

#pragma once

#include <cmath>

#include "vectors.h"

namespace functions {

#if defined(__AVX512F__)
constexpr float kLeast = -104.0f;  // of exponents: what is below gives 0
#else
constexpr float kLeast = -87.0f;  // without numbers that are smaller than normal ones
#endif

// e^x for x <= 0, relative error below 2^-22 from -87 on; 0 where that is hardly a number. What is no number stays
// none.
inline Floats decay(const Floats& x) {
  const Floats least = all(kLeast), bounded = larger(least, x);
  const Floats whole = rounded(bounded * all(1.44269504f));
  // What x log2(e) has beyond that, which is 1.44269502 and 1.92596303e-8.
  const Floats part = fused(bounded, all(1.92596303e-8f), fused(bounded, all(1.44269504f), all(0.0f) - whole));
  Floats sum = all(1.5403530e-4f);
  for (const float factor : {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
    sum = fused(sum, part, all(factor));
  return select(not_at_most(x, least), scaled(sum, whole), all(0.0f));
}

inline Floats magnitude(const Floats& x) { return same_bits<Floats>(same_bits<Words>(x) & all_words(0x7fffffff)); }

// The size of one with the sign of another.
inline Floats with_sign(const Floats& size, const Floats& sign) {
  return same_bits<Floats>(same_bits<Words>(size) | (same_bits<Words>(sign) & all_words(0x80000000)));
}

// Absolute error below 2^-23, relative error below 2^-21.5 from -87 on.
inline Floats sigmoid(const Floats& x) {
  const Floats small = decay(all(0.0f) - magnitude(x));  // e^-|x|
  return select(not_below(x, all(0.0f)), all(1.0f), small) / (all(1.0f) + small);
}

// Error below 2^-22.5, and above 1 of |x|; relative error as of the sigmoid.
inline Floats silu(const Floats& x) { return x * sigmoid(x); }

// Absolute error below 2^-23; by its series where it is small, so that its relative error is below 2^-21.9.
inline Floats tanh(const Floats& x) {
  const Floats size = magnitude(x), square = x * x;
  const Floats small = decay(all(-2.0f) * size);
  const Floats far = (all(1.0f) - small) / (all(1.0f) + small);
  Floats sum = all(6.2e1f / 2835.0f);
  for (const float factor : {-17.0f / 315.0f, 2.0f / 15.0f, -1.0f / 3.0f, 1.0f}) sum = fused(sum, square, all(factor));
  return select(not_below(size, all(0.25f)), with_sign(far, x), x * sum);
}

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error below 2^-21, of which float32's
// roundings are the larger part.
inline Floats erf(const Floats& x) {
  const Floats size = magnitude(x);
  const Floats t = all(1.0f) / fused(all(0.3275911f), size, all(1.0f));
  Floats sum = all(1.061405429f);
  for (const float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f, 0.0f})
    sum = fused(sum, t, all(factor));
  return with_sign(all(1.0f) - sum * decay(all(0.0f) - size * size), x);
}

// Error below 2^-22, and above 1 of |x|.
inline Floats gelu(const Floats& x) {
  return all(0.5f) * x * (all(1.0f) + erf(x * all(0.70710678f)));
}

// Hendrycks and Gimpel, arXiv 1606.08415, section 2: the approximation by a hyperbolic tangent. Its error is below
// 2^-22.5, and above 1 of |x|.
inline Floats gelu_tanh(const Floats& x) {
  const Floats inner = all(0.79788456f) * fused(all(0.044715f) * x * x, x, x);
  return all(0.5f) * x * (all(1.0f) + tanh(inner));
}

template <typename Function>
inline Floats one_by_one(const Floats& x, const Function& function) {
  float held[kLanes];
  store(held, x);
  for (float& value : held) value = function(value);
  return load(held);
}

inline Floats square_root(const Floats& x) {
  return one_by_one(x, [](float value) { return std::sqrt(value); });
}

}  // namespace functions
