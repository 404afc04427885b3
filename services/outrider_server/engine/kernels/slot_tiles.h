// The products of slot attention on the CPU's tile unit (AMX-BF16).
//
// A query has a row of each register to itself. Weights are multiplied as two bfloat16, the nearest and the nearest to
// what is left, so that next to nothing of them is lost.

#pragma once

#ifdef __AMX_BF16__

#include <cstdint>

#include "linear.h"
#include "slot_cache.h"
#include "slot_products.h"
#include "slot_softmax.h"
#include "vectors.h"

namespace slots {

constexpr int kSums = 4;  // registers 0 to 3: rows by 16 keys, or by 16 dimensions

// What products of one thread need beside its queries.
struct TileMemory {
  alignas(64) uint16_t high[kQueries + kSpare][kBlock];  // weights
  alignas(64) uint16_t low[kQueries + kSpare][kBlock];   // what is left of them
  alignas(64) uint16_t values[kBlock * kLargest];        // what is seen of a block, zeros elsewhere
  alignas(64) float sums[kSpare * kLargest];
};

// Registers 4 and 6: rows of up to 32 numbers, and 16 lines. 5 and 7: those of the last dimensions.
inline void shape_tiles(int64_t rows, int64_t last_pairs) {
  linear::TileShapes shapes;
  for (const int rows_of : {0, 1, 2, 3, 4}) shapes.rows[rows_of] = static_cast<uint8_t>(rows);
  shapes.rows[5] = static_cast<uint8_t>(last_pairs ? rows : 0);
  shapes.bytes_a_row[5] = static_cast<uint16_t>(last_pairs * 4);
  shapes.rows[6] = linear::kRows;
  shapes.rows[7] = static_cast<uint8_t>(last_pairs);
  shapes.bytes_a_row[7] = last_pairs ? 64 : 0;
  shapes.use();
}

class TileUnit {
 public:
  using Queries = Tile<uint16_t>;

  TileUnit(int64_t count, const Shape& shape) : rows_(count > linear::kRows ? (count + 1) / 2 : count) {
    shape_tiles(rows_, shape.pairs() % linear::kRows);
  }
  ~TileUnit() { _tile_release(); }
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;

  void multiply(Queries& tile, const Shape& shape, const uint16_t* keys) const {
    for (int64_t query = 0; query < tile.count; query += rows_)
      multiply_rows(tile, query, keys, shape.pairs());
  }

  void add(Queries& tile, const Shape& shape, const uint16_t* values) const {
    TileMemory& memory = own_memory();
    Span any = tile.spans[0], every = any;
    for (int64_t q = 0; q < tile.count; ++q) {
      const Span& span = tile.spans[q];
      split(tile, q, memory);
      if (span.empty()) {
        every = {0, 0};
        continue;
      }
      any = any.empty() ? span : Span{std::min(any.begin, span.begin), std::max(any.end, span.end)};
      every = common(every, span);
    }
    const bool whole = every == Span{0, kBlock};
    if (!whole && !(keep_seen(values, any, shape.groups(), memory.values) || every == any))
      return add_each(tile, shape, values, memory);
    for (int64_t query = 0; query < tile.count; query += rows_)
      add_rows(memory, query, whole ? values : memory.values, shape.groups(), tile.sums + query * tile.padded,
               tile.sums + query * tile.padded);
  }

 private:
  static TileMemory& own_memory() {
    static thread_local TileMemory memory;
    return memory;
  }

  // Products of rows from `query` on with a block's keys.
  static void multiply_rows(Queries& tile, int64_t query, const uint16_t* keys, int64_t pairs) {
    const uint16_t* queries = tile.queries + query * tile.padded;
    const int64_t stride = tile.padded * sizeof(uint16_t), group = pairs * kLine;
    zero_sums();
    int64_t pair = 0;
    for (; pair + linear::kRows <= pairs; pair += linear::kRows) {
      const uint16_t* lines = keys + pair * kLine;
      _tile_loadd(4, queries + pair * 2, stride);
      _tile_loadd(6, lines, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(6, lines + group, 64);
      _tile_dpbf16ps(1, 4, 6);
      _tile_loadd(6, lines + 2 * group, 64);
      _tile_dpbf16ps(2, 4, 6);
      _tile_loadd(6, lines + 3 * group, 64);
      _tile_dpbf16ps(3, 4, 6);
    }
    if (pair < pairs) {
      const uint16_t* lines = keys + pair * kLine;
      _tile_loadd(5, queries + pair * 2, stride);
      _tile_loadd(7, lines, 64);
      _tile_dpbf16ps(0, 5, 7);
      _tile_loadd(7, lines + group, 64);
      _tile_dpbf16ps(1, 5, 7);
      _tile_loadd(7, lines + 2 * group, 64);
      _tile_dpbf16ps(2, 5, 7);
      _tile_loadd(7, lines + 3 * group, 64);
      _tile_dpbf16ps(3, 5, 7);
    }
    float* to = tile.weights[query];
    _tile_stored(0, to, sizeof(tile.weights[0]));
    _tile_stored(1, to + 16, sizeof(tile.weights[0]));
    _tile_stored(2, to + 32, sizeof(tile.weights[0]));
    _tile_stored(3, to + 48, sizeof(tile.weights[0]));
  }

  static void zero_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }

  // A query's weights as two bfloat16 each; zeros where it sees nothing.
  static void split(const Queries& tile, int64_t query, TileMemory& memory) {
    const bool empty = tile.spans[query].empty();
    for (int64_t key = 0; key < kBlock; key += kLanes) {
      const Floats weight = empty ? all(0.0f) : load(tile.weights[query] + key);
      ::narrow(weight, memory.high[query] + key);
      ::narrow(weight - ::widened(memory.high[query] + key), memory.low[query] + key);
    }
  }

  // Copies the lines of positions in a span, zeros elsewhere; returns whether all of its values are finite.
  static bool keep_seen(const uint16_t* values, const Span& span, int64_t groups, uint16_t* to) {
    Words largest = all_words(0);
    for (int64_t key = 0; key < kBlock; key += 2) {
      const uint32_t mask = (span.begin <= key && key < span.end ? 0xffffu : 0) |
                            (span.begin <= key + 1 && key + 1 < span.end ? 0xffff0000u : 0);
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t at = (key / 2 * groups + group) * kLine;
        const Words seen = load<Words>(reinterpret_cast<const uint32_t*>(values + at)) & all_words(mask);
        store(reinterpret_cast<uint32_t*>(to + at), seen);
        const __m512i sizes = _mm512_and_si512((__m512i)seen.part[0], _mm512_set1_epi16(0x7fff));
        largest.part[0] = (WordPart)_mm512_max_epu16((__m512i)largest.part[0], sizes);
      }
    }
    return _mm512_cmpge_epu16_mask((__m512i)largest.part[0], _mm512_set1_epi16(0x7f80)) == 0;
  }

  // Adds values to the sums of the rows from `query` on, and writes these to `to`.
  static void add_rows(const TileMemory& memory, int64_t query, const uint16_t* values, int64_t groups,
                       const float* sums, float* to) {
    int64_t group = 0;
    for (; group + kSums <= groups; group += kSums)
      add_groups<kSums>(memory, query, values + group * kLine, groups, sums + group * kLanes, to + group * kLanes);
    for (; group < groups; ++group)
      add_groups<1>(memory, query, values + group * kLine, groups, sums + group * kLanes, to + group * kLanes);
  }

  template <int Count>
  static void add_groups(const TileMemory& memory, int64_t query, const uint16_t* values, int64_t groups,
                         const float* sums, float* to) {
    const int64_t stride = groups * kLanes * sizeof(float), line = groups * kLine * sizeof(uint16_t);
    _tile_loadd(0, sums, stride);
    if constexpr (Count > 1) {
      _tile_loadd(1, sums + 16, stride);
      _tile_loadd(2, sums + 32, stride);
      _tile_loadd(3, sums + 48, stride);
    }
    for (int64_t key = 0; key < kBlock; key += 2 * linear::kRows) {
      const uint16_t* lines = values + key / 2 * groups * kLine;
      for (const auto* weights : {memory.high, memory.low}) {
        _tile_loadd(4, weights[query] + key, sizeof(weights[0]));
        _tile_loadd(6, lines, line);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (Count > 1) {
          _tile_loadd(6, lines + kLine, line);
          _tile_dpbf16ps(1, 4, 6);
          _tile_loadd(6, lines + 2 * kLine, line);
          _tile_dpbf16ps(2, 4, 6);
          _tile_loadd(6, lines + 3 * kLine, line);
          _tile_dpbf16ps(3, 4, 6);
        }
      }
    }
    _tile_stored(0, to, stride);
    if constexpr (Count > 1) {
      _tile_stored(1, to + 16, stride);
      _tile_stored(2, to + 32, stride);
      _tile_stored(3, to + 48, stride);
    }
  }

  // Query by query, each with what it sees itself, as 0 times what is no number would not be 0.
  static void add_each(Queries& tile, const Shape& shape, const uint16_t* values, TileMemory& memory) {
    for (int64_t query = 0; query < tile.count; ++query) {
      if (tile.spans[query].empty()) continue;
      keep_seen(values, tile.spans[query], shape.groups(), memory.values);
      float* sums = tile.sums + query * tile.padded;
      add_rows(memory, query, memory.values, shape.groups(), sums, memory.sums);
      std::copy_n(memory.sums, tile.padded, sums);
    }
  }

  int64_t rows_;
};

}  // namespace slots

#endif
