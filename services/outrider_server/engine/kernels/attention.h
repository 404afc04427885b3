// Attention of a step's tokens over the slot cache, which is read where it lies.
//
// Every token carries its own slot and position and attends to the positions up to its own. Tokens that
// follow each other in one slot share the reading of its keys. The softmax is taken online over blocks of
// 64 keys (Milakov and Gimelshein, arXiv 1805.02867), always from position 0 on, so a token's bits depend
// on nothing but its query, its slot and its position.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "bfloat16.h"
#include "pool.h"
#include "vectors.h"

namespace attention {

constexpr int64_t kBlock = 64;     // keys at once
constexpr int64_t kQueries = 32;   // queries that share a block of keys
constexpr int64_t kLargest = 256;  // head_dim
#if defined(__AVX512F__)
constexpr float kLeast = -104.0f;  // of exponents: what is below gives 0
#else
constexpr float kLeast = -87.0f;  // without numbers that are smaller than normal ones
#endif

struct Shape {
  int64_t tokens, heads, key_heads, head_dim, length;
  int64_t query_token_stride, query_head_stride;
  float scaling;
};

// Where it all lies. bfloat16 but for places, which are (slot, position).
struct Step {
  const uint16_t* query;   // [T, H, D], T and H in strides of the shape
  const uint16_t* keys;    // [S, K, L, D]
  const uint16_t* values;  // [S, K, L, D]
  const int64_t* places;   // [T, 2]
  uint16_t* out;           // [T, H, D]
};

// 16 rows of 16 dwords, `stride` values of 16 bits apart -> their transpose at `to`.
inline void transpose(const uint16_t* from, int64_t stride, uint32_t* to) {
#if defined(__AVX512F__)
  const __m512i rows = _mm512_mullo_epi32(
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
      _mm512_set1_epi32(static_cast<int>(stride)));
  for (int column = 0; column < 16; ++column)
    _mm512_store_si512(to + column * 16, _mm512_i32gather_epi32(rows, from + column * 2, 2));
#else
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column)
      std::memcpy(to + column * 16 + row, from + row * stride + column * 2, sizeof(uint32_t));
#endif
}

// e^x for x <= 0, relative error below 2^-22; 0 where that is hardly a number. What is no number stays none.
inline Floats exponential(const Floats& x) {
  const Floats least = all(kLeast);
  const Floats scaled_x = larger(least, x) * all(1.44269504f);
  const Floats whole = rounded(scaled_x);
  const Floats part = scaled_x - whole;
  Floats sum = all(1.5403530e-4f);
  for (const float factor : {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f,
                             6.9314718e-1f, 1.0f})
    sum = fused(sum, part, all(factor));
  return select(not_at_most(x, least), scaled(sum, whole), all(0.0f));
}

// The state of one tile of queries.
struct Tile {
  alignas(64) uint32_t keys[kBlock / 16][kLargest / 2][16];
  alignas(64) float values[kBlock][kLargest];
  alignas(64) Input queries[kQueries][kLargest];
  alignas(64) float sums[kQueries][kLargest];
  alignas(64) float weights[kQueries][kBlock];
  alignas(64) float totals[kQueries][16];
  float largest[kQueries];
  int64_t positions[kQueries];
};

inline void load_block(Tile& tile, const Shape& shape, const uint16_t* keys, const uint16_t* values,
                       int64_t first) {
  const int64_t dim = shape.head_dim;
  for (int64_t group = 0; group < kBlock / 16; ++group)
    for (int64_t d = 0; d < dim; d += 32)
      transpose(keys + (first + group * 16) * dim + d, dim, tile.keys[group][d / 2]);
  for (int64_t key = 0; key < kBlock; ++key)
    for (int64_t d = 0; d < dim; d += 16)
      store(tile.values[key] + d, widened(values + (first + key) * dim + d));
}

// Scores of up to four queries with the block's keys: the products of bfloat16, summed in float32.
template <int Count>
void score(Tile& tile, const Shape& shape, int64_t query) {
  for (int64_t group = 0; group < kBlock / kLanes; ++group) {
    Floats sums[Count];
#pragma GCC unroll 4
    for (int q = 0; q < Count; ++q) sums[q] = all(0.0f);
    for (int64_t pair = 0; pair < shape.head_dim / 2; ++pair) {
      const Pairs keys = load_pairs(tile.keys[group][pair]);
#pragma GCC unroll 4
      for (int q = 0; q < Count; ++q)
        sums[q] = add_products(sums[q], tile.queries[query + q] + pair * 2, keys);
    }
#pragma GCC unroll 4
    for (int q = 0; q < Count; ++q)
      store(tile.weights[query + q] + group * kLanes, sums[q] * all(shape.scaling));
  }
}

// Turns the scores of one query into weights and rescales what it has summed so far.
inline void weigh(Tile& tile, const Shape& shape, int64_t query, int64_t first) {
  const int64_t seen = tile.positions[query] + 1 - first;
  const Floats hidden = all(-std::numeric_limits<float>::infinity());
  Floats scores[kBlock / kLanes];
  Floats best = hidden;
  for (int64_t group = 0; group < kBlock / kLanes; ++group) {
    const Masks visible = first_lanes(std::clamp<int64_t>(seen - group * kLanes, 0, kLanes));
    scores[group] = select(visible, load(tile.weights[query] + group * kLanes), hidden);
    best = larger(best, scores[group]);
  }
  const float before = tile.largest[query];
  const float now = std::max(before, largest_of(best));
  Floats total = load(tile.totals[query]);
  if (now != before) {
    const Floats shrink = exponential(all(before - now));
    total = total * shrink;
    for (int64_t d = 0; d < shape.head_dim; d += kLanes)
      store(tile.sums[query] + d, load(tile.sums[query] + d) * shrink);
    tile.largest[query] = now;
  }
  for (int64_t group = 0; group < kBlock / kLanes; ++group) {
    const Floats weight = exponential(scores[group] - all(now));
    total = total + weight;
    store(tile.weights[query] + group * kLanes, weight);
  }
  store(tile.totals[query], total);
}

template <int Count>
void add_values(Tile& tile, const Shape& shape, int64_t query, int64_t keys) {
  constexpr int kBeside = kBytes == 64 ? 2 : 1;  // groups of 16: what fits into registers, and keeps them busy
  for (int64_t d = 0; d < shape.head_dim; d += kBeside * kLanes) {
    Floats sums[Count][kBeside];
#pragma GCC unroll 4
    for (int q = 0; q < Count; ++q)
#pragma GCC unroll 2
      for (int n = 0; n < kBeside; ++n) sums[q][n] = load(tile.sums[query + q] + d + n * kLanes);
    for (int64_t key = 0; key < keys; ++key) {
      Floats value[kBeside];
#pragma GCC unroll 2
      for (int n = 0; n < kBeside; ++n) value[n] = load(tile.values[key] + d + n * kLanes);
#pragma GCC unroll 4
      for (int q = 0; q < Count; ++q) {
        const Floats weight = all(tile.weights[query + q][key]);
#pragma GCC unroll 2
        for (int n = 0; n < kBeside; ++n) sums[q][n] = fused(weight, value[n], sums[q][n]);
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < Count; ++q)
#pragma GCC unroll 2
      for (int n = 0; n < kBeside; ++n) store(tile.sums[query + q] + d + n * kLanes, sums[q][n]);
  }
}

// All queries of the tile over all keys that any of them sees.
inline void attend_tile(Tile& tile, const Shape& shape, int64_t queries, const uint16_t* keys,
                        const uint16_t* values) {
  const int64_t last = *std::max_element(tile.positions, tile.positions + queries);
  const int64_t padded = (queries + 3) / 4 * 4;
  for (int64_t query = 0; query < padded; ++query) {
    tile.largest[query] = -std::numeric_limits<float>::infinity();
    std::fill_n(tile.totals[query], 16, 0.0f);
    std::fill_n(tile.sums[query], shape.head_dim, 0.0f);
    if (query >= queries) {
      tile.positions[query] = tile.positions[0];
      std::fill_n(tile.queries[query], shape.head_dim, Input{0});
    }
  }
  for (int64_t first = 0; first <= last; first += kBlock) {
    load_block(tile, shape, keys, values, first);
    for (int64_t query = 0; query < padded; query += 4) {
      score<4>(tile, shape, query);
      for (int64_t q = query; q < query + 4; ++q)
        if (tile.positions[q] >= first)
          weigh(tile, shape, q, first);
        else
          std::fill_n(tile.weights[q], kBlock, 0.0f);
      add_values<4>(tile, shape, query, std::min(kBlock, last + 1 - first));
    }
  }
}

// Tokens [begin, end) of one slot with one key head.
inline void attend_run(Tile& tile, const Shape& shape, const Step& step, int64_t begin, int64_t end,
                       int64_t key_head) {
  const int64_t group = shape.heads / shape.key_heads, dim = shape.head_dim;
  const int64_t offset =
      (step.places[begin * 2] * shape.key_heads + key_head) * shape.length * dim;
  const int64_t total = (end - begin) * group;
  for (int64_t start = 0; start < total; start += kQueries) {
    const int64_t count = std::min(kQueries, total - start);
    for (int64_t q = 0; q < count; ++q) {
      const int64_t token = begin + (start + q) / group;
      const int64_t head = key_head * group + (start + q) % group;
      tile.positions[q] = step.places[token * 2 + 1];
      as_inputs(step.query + token * shape.query_token_stride + head * shape.query_head_stride,
                dim, tile.queries[q]);
    }
    attend_tile(tile, shape, count, step.keys + offset, step.values + offset);
    for (int64_t q = 0; q < count; ++q) {
      const int64_t token = begin + (start + q) / group;
      const int64_t head = key_head * group + (start + q) % group;
      uint16_t* to = step.out + (token * shape.heads + head) * dim;
      const Floats share = all(1.0f / sum_of(load(tile.totals[q])));
      for (int64_t d = 0; d < dim; d += kLanes) narrow(load(tile.sums[q] + d) * share, to + d);
    }
  }
}

// D is a multiple of 32 up to 256, L a multiple of 64.
inline void attend(const Shape& shape, const Step& step) {
  std::vector<int64_t> begins;
  for (int64_t token = 0; token < shape.tokens; ++token)
    if (token == 0 || step.places[token * 2] != step.places[token * 2 - 2]) begins.push_back(token);
  const auto runs = static_cast<int64_t>(begins.size());
  begins.push_back(shape.tokens);
  Pool::instance().run(runs * shape.key_heads, [&](int64_t item) {
    static thread_local Tile tile;
    const int64_t run = item / shape.key_heads;
    attend_run(tile, shape, step, begins[run], begins[run + 1], item % shape.key_heads);
  });
}

}  // namespace attention
