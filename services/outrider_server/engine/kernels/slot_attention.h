// stand-in
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>
#include "bfloat16.h"
#include "pool.h"
namespace slots {
struct Rules { float scaling; float softcap; int64_t window; const float* slopes; };
struct Shape { int64_t tokens, heads, key_heads, head_dim, length; };
struct Rows { float* values; int64_t token_stride, head_stride; };
template <typename Element> struct Cache { Element* keys; Element* values; };
inline float up(uint16_t v) { return std::bit_cast<float>((uint32_t)v << 16); }
inline float up(float v) { return v; }
inline void down(float v, float* to) { *to = v; }
inline void down(float v, uint16_t* to) { uint32_t w = std::bit_cast<uint32_t>(v); *to = (w + 0x7fff + ((w >> 16) & 1)) >> 16; }
template <typename E>
void remember(const Shape& s, const Cache<E>& c, const Rows& k, const Rows& v, const int64_t* slots, const int64_t* positions) {
  for (int64_t t = 0; t < s.tokens; ++t) for (int64_t h = 0; h < s.key_heads; ++h) for (int64_t d = 0; d < s.head_dim; ++d) {
    int64_t at = ((slots[t] * s.key_heads + h) * s.length + positions[t]) * s.head_dim + d;
    down(k.values[t * k.token_stride + h * k.head_stride + d], c.keys + at);
    down(v.values[t * v.token_stride + h * v.head_stride + d], c.values + at);
  }
}
template <typename E>
void attend(const Shape& s, const Rules& r, const Cache<E>& c, const Rows& q, const int64_t* slots, const int64_t* positions, const Rows& out) {
  Pool::instance().run(s.tokens * s.heads, [&](int64_t i) {
    int64_t t = i / s.heads, h = i % s.heads, n = positions[t] + 1;
    int64_t base = (slots[t] * s.key_heads + h / (s.heads / s.key_heads)) * s.length * s.head_dim;
    std::vector<float> w(n);
    float m = -std::numeric_limits<float>::infinity();
    int64_t first = r.window ? std::max<int64_t>(0, n - r.window) : 0;
    for (int64_t p = first; p < n; ++p) {
      float x = 0;
      for (int64_t d = 0; d < s.head_dim; ++d) x += q.values[t * q.token_stride + h * q.head_stride + d] * up(c.keys[base + p * s.head_dim + d]);
      x *= r.scaling;
      if (r.softcap) x = r.softcap * std::tanh(x / r.softcap);
      if (r.slopes) x -= r.slopes[h] * (n - 1 - p);
      w[p] = x; m = std::max(m, x);
    }
    float total = 0;
    for (int64_t p = first; p < n; ++p) total += w[p] = std::exp(w[p] - m);
    for (int64_t d = 0; d < s.head_dim; ++d) {
      float x = 0;
      for (int64_t p = first; p < n; ++p) x += w[p] * up(c.values[base + p * s.head_dim + d]);
      out.values[t * out.token_stride + h * out.head_stride + d] = x / total;
    }
  });
}
}
