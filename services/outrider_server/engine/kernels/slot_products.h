// The products of slot attention on the vector unit: queries with keys, and weights with values.
//
// As many queries as there are, up to what fits into registers, are multiplied by a line that was read once. A query's
// sums run over dimensions, and over positions, in ascending order whatever stands beside it.

#pragma once

#include <cstdint>

#include "slot_cache.h"
#include "slot_softmax.h"
#include "vectors.h"

namespace slots {

constexpr int64_t kAhead = 4096;                     // bytes that lines are asked for before they are used
constexpr int64_t kTogether = kBytes == 64 ? 8 : 4;  // queries whose sums fit into registers

// Lines at once: what then fits into registers, and keeps them busy.
template <int Count>
constexpr int kBeside = kBytes == 64 ? (Count > 4 ? 2 : 4) : (Count == 1 ? 4 : Count == 2 ? 2 : 1);

// Calls work<Count>(query) for queries [begin, end), as many at once as there are.
template <typename Work>
void together(int64_t begin, int64_t end, const Work& work) {
  while (begin < end) {
    const int64_t count = std::min(end - begin, kTogether);
    if (kTogether == 8 && count == 8)
      work.template operator()<8>(begin), begin += 8;
    else if (count >= 4)
      work.template operator()<4>(begin), begin += 4;
    else if (count == 3)
      work.template operator()<3>(begin), begin += 3;
    else if (count == 2)
      work.template operator()<2>(begin), begin += 2;
    else
      work.template operator()<1>(begin), begin += 1;
  }
}

// Products of queries from `query` on with the block's keys.
template <int Count, typename Element, typename Query>
void multiply_keys(Tile<Query>& tile, const Element* keys, int64_t pairs, int64_t query) {
  constexpr int kGroups = kBeside<Count>;
  const Query* queries = tile.queries + query * tile.padded;
  for (int64_t group = 0; group < kBlock / kLanes; group += kGroups) {
    Floats sums[Count][kGroups];
#pragma GCC unroll 8
    for (int q = 0; q < Count; ++q)
#pragma GCC unroll 4
      for (int n = 0; n < kGroups; ++n) sums[q][n] = all(0.0f);
    for (int64_t pair = 0; pair < pairs; ++pair) {
#pragma GCC unroll 4
      for (int n = 0; n < kGroups; ++n) {
        const Element* from = keys + ((group + n) * pairs + pair) * kLine;
        if (query == 0) __builtin_prefetch(reinterpret_cast<const char*>(from) + kAhead);
        const auto line = line_of(from);
#pragma GCC unroll 8
        for (int q = 0; q < Count; ++q)
          sums[q][n] = add_products(sums[q][n], queries + q * tile.padded + pair * 2, line);
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < Count; ++q)
#pragma GCC unroll 4
      for (int n = 0; n < kGroups; ++n) store(tile.weights[query + q] + (group + n) * kLanes, sums[q][n]);
  }
}

// Sums of `Count` queries by 16 * `Beside` dimensions, in registers.
template <int Count, int Beside>
struct Sums {
  Floats held[Count][Beside];

  [[gnu::always_inline]] void load_from(const float* from, int64_t stride) {
#pragma GCC unroll 8
    for (int q = 0; q < Count; ++q)
#pragma GCC unroll 4
      for (int n = 0; n < Beside; ++n) held[q][n] = load(from + q * stride + n * kLanes);
  }

  [[gnu::always_inline]] void store_to(float* to, int64_t stride) const {
#pragma GCC unroll 8
    for (int q = 0; q < Count; ++q)
#pragma GCC unroll 4
      for (int n = 0; n < Beside; ++n) store(to + q * stride + n * kLanes, held[q][n]);
  }

  // Adds what is seen of two positions, whose lines of values and whose first query's weights these are.
  template <bool First, bool Second, typename Element>
  [[gnu::always_inline]] void add(const Element* lines, const float* weights) {
#pragma GCC unroll 4
    for (int n = 0; n < Beside; ++n) {
      const Two values = both_of(lines + n * kLine);
#pragma GCC unroll 8
      for (int q = 0; q < Count; ++q) {
        if constexpr (First) held[q][n] = fused(all(weights[q * kBlock]), values.first, held[q][n]);
        if constexpr (Second) held[q][n] = fused(all(weights[q * kBlock + 1]), values.second, held[q][n]);
      }
    }
  }
};

// Adds the block's values to the sums of queries that see the same of it: 16 * `Beside` dimensions from a group on.
template <int Count, int Beside, typename Element, typename Query>
void add_groups(Tile<Query>& tile, const Element* values, int64_t groups, int64_t group, int64_t query) {
  const Span span = tile.spans[query];
  float* to = tile.sums + query * tile.padded + group * kLanes;
  Sums<Count, Beside> sums;
  sums.load_from(to, tile.padded);
  const auto lines = [&](int64_t key) { return values + (key / 2 * groups + group) * kLine; };
  int64_t key = span.begin;
  if (key % 2) {
    sums.template add<false, true>(lines(key), &tile.weights[query][key - 1]);
    ++key;
  }
  for (; key + 1 < span.end; key += 2) {
    if (query == 0)
      for (int n = 0; n < Beside; ++n)
        __builtin_prefetch(reinterpret_cast<const char*>(lines(key) + n * kLine) + kAhead);
    sums.template add<true, true>(lines(key), &tile.weights[query][key]);
  }
  if (key < span.end) sums.template add<true, false>(lines(key), &tile.weights[query][key]);
  sums.store_to(to, tile.padded);
}

template <int Count, typename Element, typename Query>
void add_values(Tile<Query>& tile, const Element* values, int64_t groups, int64_t query) {
  constexpr int kMost = kBeside<Count>;
  int64_t group = 0;
  for (; group + kMost <= groups; group += kMost) add_groups<Count, kMost>(tile, values, groups, group, query);
  for (; group < groups; ++group) add_groups<Count, 1>(tile, values, groups, group, query);
}

// Queries from `begin` on up to the one that is returned see the same of the block.
template <typename Query>
int64_t alike(const Tile<Query>& tile, int64_t begin) {
  int64_t end = begin + 1;
  while (end < tile.count && tile.spans[end] == tile.spans[begin]) ++end;
  return end;
}

struct VectorUnit {
  template <typename Element, typename Query>
  void multiply(Tile<Query>& tile, const Shape& shape, const Element* keys) const {
    together(0, tile.count, [&]<int Count>(int64_t query) { multiply_keys<Count>(tile, keys, shape.pairs(), query); });
  }

  template <typename Element, typename Query>
  void add(Tile<Query>& tile, const Shape& shape, const Element* values) const {
    for (int64_t begin = 0, end; begin < tile.count; begin = end) {
      end = alike(tile, begin);
      if (!tile.spans[begin].empty())
        together(begin, end, [&]<int Count>(int64_t query) { add_values<Count>(tile, values, shape.groups(), query); });
    }
  }
};

}  // namespace slots
