// The softmax of slot attention: taken online over blocks of 64 keys (Milakov and Gimelshein, arXiv 1805.02867).
//
// Positions are cut into chunks of 512. Each is summed by itself, and chunks are merged in their order, so that threads
// may share a long context; a query's bits are the same whoever sums them. Blocks and chunks of which a query sees
// nothing leave what it has as it is.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "slot_cache.h"
#include "vectors.h"

namespace slots {

constexpr int64_t kBlock = 64;    // keys at once
constexpr int64_t kChunk = 512;   // keys that are summed by themselves
constexpr int64_t kQueries = 32;  // that share the reading of keys
constexpr int64_t kSpare = 16;    // rows behind them that a tile register may read
constexpr float kNothing = -std::numeric_limits<float>::infinity();
#if defined(__AVX512F__)
constexpr float kLeast = -104.0f;  // of exponents: what is below gives 0
#else
constexpr float kLeast = -87.0f;  // without numbers that are smaller than normal ones
#endif

struct Rules {
  float scaling;
  float softcap;        // scores are softcap tanh(score / softcap); 0: as they are
  int64_t window;       // a query sees itself and window - 1 positions before; 0: all before
  const float* slopes;  // [heads]: a key n positions back is n slopes lower; null: it is not
};

// Of positions, [begin, end).
struct Span {
  int64_t begin, end;

  bool empty() const { return begin >= end; }
  bool operator==(const Span&) const = default;
};

inline Span seen_from(int64_t position, const Rules& rules) {
  return {rules.window > 0 ? std::max<int64_t>(position + 1 - rules.window, 0) : 0, position + 1};
}

inline Span common(const Span& a, const Span& b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

// Queries of one slot and key head over one chunk. Rows of queries and sums lie `padded` numbers apart.
template <typename Query>
struct Tile {
  alignas(64) Query queries[(kQueries + kSpare) * kLargest];
  alignas(64) float sums[(kQueries + kSpare) * kLargest];
  alignas(64) float weights[kQueries + kSpare][kBlock];  // scores at first
  alignas(64) float totals[kQueries][kLanes];
  float largest[kQueries];
  int64_t positions[kQueries];
  float slopes[kQueries];
  Span spans[kQueries];  // that are seen of the present block
  int64_t count, padded;
};

// e^x for x <= 0, relative error below 2^-22 or, where that is more, -x 2^-24; 0 where that is hardly a number. What
// is no number stays none.
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

// tanh x, relative error below 2^-21: near 0 a polynomial (Cephes). What is no number stays none.
inline Floats hyperbolic_tangent(const Floats& x) {
  const Words bits = same_bits<Words>(x);
  const Floats size = same_bits<Floats>(bits & all_words(0x7fffffff));
  const Floats square = size * size;
  Floats sum = all(-5.70498872745e-3f);
  for (const float factor : {2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f})
    sum = fused(sum, square, all(factor));
  const Floats near = fused(sum * square, size, size);
  const Floats power = exponential(size * all(-2.0f));
  const Floats far = (all(1.0f) - power) / (all(1.0f) + power);
  const Floats tangent = select(not_below(size, all(0.625f)), far, near);
  return same_bits<Floats>(same_bits<Words>(tangent) | (bits & all_words(0x80000000)));
}

// Scores of a query with sixteen keys, of which the first stands `ahead` positions after its own.
inline Floats ruled(Floats products, const Rules& rules, float slope, int64_t ahead) {
  Floats scores = products * all(rules.scaling);
  if (rules.softcap > 0)
    scores = hyperbolic_tangent(scores * all(1.0f / rules.softcap)) * all(rules.softcap);
  if (rules.slopes) {
    constexpr float kPlaces[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    scores = scores + all(slope) * (load(kPlaces) + all(static_cast<float>(ahead)));
  }
  return scores;
}

// Raises what a query's weights are relative to, where a score is above it; `before` where none is.
template <typename Query>
float raise(Tile<Query>& tile, int64_t query, const Floats& best) {
  const float before = tile.largest[query];
  if (bits_of(not_at_most(best, all(before))) == 0) return before;
  const float now = std::max(before, largest_of(best));
  if (now == before) return before;
  const Floats shrink = exponential(all(before - now));
  store(tile.totals[query], load(tile.totals[query]) * shrink);
  float* sums = tile.sums + query * tile.padded;
  for (int64_t d = 0; d < tile.padded; d += kLanes) store(sums + d, load(sums + d) * shrink);
  return tile.largest[query] = now;
}

// Turns one query's products with the block from position `first` on into weights, 0 where it sees nothing.
template <typename Query>
void weigh(Tile<Query>& tile, const Rules& rules, int64_t query, int64_t first) {
  const Span span = tile.spans[query];
  const Floats hidden = all(kNothing);
  Floats scores[kBlock / kLanes], best = hidden;
#pragma GCC unroll 4
  for (int64_t group = 0; group < kBlock / kLanes; ++group) {
    const int64_t key = group * kLanes;
    scores[group] = ruled(load(tile.weights[query] + key), rules, tile.slopes[query],
                          first + key - tile.positions[query]);
    if (span.end < kBlock) scores[group] = select(first_lanes(span.end - key), scores[group], hidden);
    if (span.begin > 0) scores[group] = select(first_lanes(span.begin - key), hidden, scores[group]);
    best = larger(best, scores[group]);
  }
  const float now = raise(tile, query, best);
  const Floats offset = all(now == kNothing ? 0.0f : now);
  Floats total = load(tile.totals[query]);
#pragma GCC unroll 4
  for (int64_t group = 0; group < kBlock / kLanes; ++group) {
    const Floats weight = exponential(scores[group] - offset);
    total = total + weight;
    store(tile.weights[query] + group * kLanes, weight);
  }
  store(tile.totals[query], total);
}

// What a query has of some chunks: sums [padded], and behind them their total and what they are relative to.
struct Partial {
  float* sums;
  int64_t padded;

  static int64_t size(int64_t padded) { return padded + kLanes; }
  float& total() const { return sums[padded]; }
  float& largest() const { return sums[padded + 1]; }

  void clear() const {
    std::fill_n(sums, padded, 0.0f);
    total() = 0.0f;
    largest() = kNothing;
  }

  void merge(const Partial& next) const {
    const float most = std::max(largest(), next.largest());
    const float offset = most == kNothing ? 0.0f : most;
    const Floats shrink = exponential(all(largest() - offset)), share = exponential(all(next.largest() - offset));
    for (int64_t d = 0; d < padded; d += kLanes)
      store(sums + d, fused(load(sums + d), shrink, load(next.sums + d) * share));
    float one[kLanes];
    store(one, fused(all(total()), shrink, all(next.total()) * share));
    total() = one[0];
    largest() = most;
  }

  // The softmax's mean of values. Zeros have no sign, as what was hidden may have given them one.
  void finish(int64_t dim, float* to) const {
    const Floats share = all(1.0f / total());
    for (int64_t d = 0; d < dim; d += kLanes) {
      float held[kLanes];
      store(held, load(sums + d) * share + all(0.0f));
      std::copy_n(held, std::min<int64_t>(kLanes, dim - d), to + d);
    }
  }
};

template <typename Query>
void clear(Tile<Query>& tile) {
  std::fill_n(tile.sums, tile.count * tile.padded, 0.0f);
  std::fill_n(tile.totals[0], tile.count * kLanes, 0.0f);
  std::fill_n(tile.largest, tile.count, kNothing);
}

template <typename Query>
void take(const Tile<Query>& tile, int64_t query, const Partial& to) {
  std::copy_n(tile.sums + query * tile.padded, tile.padded, to.sums);
  to.total() = sum_of(load(tile.totals[query]));
  to.largest() = tile.largest[query];
}

}  // namespace slots
