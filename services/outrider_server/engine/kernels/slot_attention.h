// Attention of a step's tokens over the slot cache, which is read where it lies.
//
// Every token carries its own slot and position and attends to the positions up to its own. Tokens that follow each
// other in one slot share the reading of its keys and values, as do the heads of a key head. What a token does not see
// of its slot, whatever it is, changes no bit of it; what it sees and is no number shows.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "linear.h"
#include "pool.h"
#include "slot_cache.h"
#include "slot_products.h"
#include "slot_softmax.h"
#include "slot_tiles.h"

namespace slots {

// Queries that share the reading of a key head's keys in a run of tokens of one slot: `count` of them from the run's
// `first` on, token by token. Any of them sees positions of chunks [chunk, end_chunk).
struct Batch {
  int64_t token, key_head, first, count, chunk, end_chunk;

  int64_t chunks() const { return end_chunk - chunk; }
};

template <typename Element>
struct Step {
  const Shape& shape;
  const Rules& rules;
  const Cache<Element>& cache;
  const Rows<const float>& query;
  const Rows<float>& out;
  const int64_t* slots;
  const int64_t* positions;

  using Query = typename Line<Element>::Query;

  int64_t group() const { return shape.heads / shape.key_heads; }
  int64_t token_of(const Batch& batch, int64_t query) const { return batch.token + (batch.first + query) / group(); }
  int64_t head_of(const Batch& batch, int64_t query) const {
    return batch.key_head * group() + (batch.first + query) % group();
  }

  // Of one run: tokens [begin, end).
  void add_batches(int64_t begin, int64_t end, std::vector<Batch>& batches) const {
    const int64_t total = (end - begin) * group(), parts = (total + kQueries - 1) / kQueries;
    const int64_t size = (total + parts - 1) / parts;
    for (int64_t key_head = 0; key_head < shape.key_heads; ++key_head)
      for (int64_t first = 0; first < total; first += size) {
        Batch batch{begin, key_head, first, std::min(size, total - first), shape.length, 0};
        for (int64_t q = 0; q < batch.count; ++q) {
          const Span seen = seen_from(positions[token_of(batch, q)], rules);
          batch.chunk = std::min(batch.chunk, seen.begin / kChunk);
          batch.end_chunk = std::max(batch.end_chunk, (seen.end + kChunk - 1) / kChunk);
        }
        batches.push_back(batch);
      }
  }

  std::vector<Batch> batches() const {
    std::vector<Batch> made;
    for (int64_t begin = 0, end; begin < shape.tokens; begin = end) {
      end = begin + 1;
      while (end < shape.tokens && slots[end] == slots[begin]) ++end;
      add_batches(begin, end, made);
    }
    return made;
  }

  void fill(const Batch& batch, Tile<Query>& tile) const {
    tile.count = batch.count;
    tile.padded = shape.padded();
    for (int64_t q = 0; q < batch.count; ++q) {
      const int64_t token = token_of(batch, q), head = head_of(batch, q);
      tile.positions[q] = positions[token];
      tile.slopes[q] = rules.slopes ? rules.slopes[head] : 0.0f;
      as_elements(query.at(token, head), shape.head_dim, tile.queries + q * tile.padded);
    }
  }

  // The tile's queries over one chunk of their keys, from nothing.
  template <typename Unit>
  void sum_chunk(const Batch& batch, int64_t chunk, Tile<Query>& tile, const Unit& unit) const {
    const int64_t at = slots[batch.token] * shape.key_heads + batch.key_head;
    const Element* keys = cache.keys + at * shape.key_size();
    const Element* values = cache.values + at * shape.value_size();
    Span seen{shape.length, 0};
    for (int64_t q = 0; q < tile.count; ++q) {
      const Span own = seen_from(tile.positions[q], rules);
      seen = {std::min(seen.begin, own.begin), std::max(seen.end, own.end)};
    }
    seen = common(seen, {chunk * kChunk, (chunk + 1) * kChunk});
    clear(tile);
    for (int64_t first = seen.begin / kBlock * kBlock; first < seen.end; first += kBlock) {
      for (int64_t q = 0; q < tile.count; ++q) {
        const Span own = common(seen_from(tile.positions[q], rules), {first, first + kBlock});
        tile.spans[q] = own.empty() ? Span{0, 0} : Span{own.begin - first, own.end - first};
      }
      unit.multiply(tile, shape, keys + first / kLanes * shape.pairs() * kLine);
      for (int64_t q = 0; q < tile.count; ++q)
        if (!tile.spans[q].empty()) weigh(tile, rules, q, first);
      unit.add(tile, shape, values + first / 2 * shape.groups() * kLine);
    }
  }

  void sum_chunk(const Batch& batch, int64_t chunk, Tile<Query>& tile) const {
#ifdef __AMX_BF16__
    if constexpr (std::is_same_v<Element, uint16_t>)
      if (linear::tile_unit_used) return sum_chunk(batch, chunk, tile, TileUnit(tile.count, shape));
#endif
    sum_chunk(batch, chunk, tile, VectorUnit());
  }

  void finish(const Batch& batch, int64_t query, const Partial& partial) const {
    partial.finish(shape.head_dim, out.at(token_of(batch, query), head_of(batch, query)));
  }

  // Whether a query sees something of a chunk.
  bool sees(const Batch& batch, int64_t query, int64_t chunk) const {
    const Span seen = seen_from(positions[token_of(batch, query)], rules);
    return !common(seen, {chunk * kChunk, (chunk + 1) * kChunk}).empty();
  }
};

// This thread's.
template <typename Query>
Tile<Query>& own_tile() {
  static thread_local Tile<Query> tile;
  return tile;
}

// A batch's chunks one after the other.
template <typename Element>
void attend_batch(const Step<Element>& step, const Batch& batch, Tile<typename Line<Element>::Query>& tile) {
  alignas(64) float sums[kQueries][Partial::size(kLargest)], next[Partial::size(kLargest)];
  step.fill(batch, tile);
  for (int64_t q = 0; q < batch.count; ++q) Partial{sums[q], tile.padded}.clear();
  for (int64_t chunk = batch.chunk; chunk < batch.end_chunk; ++chunk) {
    step.sum_chunk(batch, chunk, tile);
    for (int64_t q = 0; q < batch.count; ++q) {
      if (!step.sees(batch, q, chunk)) continue;
      take(tile, q, {next, tile.padded});
      Partial{sums[q], tile.padded}.merge({next, tile.padded});
    }
  }
  for (int64_t q = 0; q < batch.count; ++q) step.finish(batch, q, {sums[q], tile.padded});
}

// One chunk of a batch.
struct Piece {
  int64_t batch, chunk;
};

// Chunks of all batches at once, and merged when all are there.
template <typename Element>
void attend_pieces(const Step<Element>& step, const std::vector<Batch>& batches) {
  const int64_t padded = step.shape.padded(), size = Partial::size(padded);
  std::vector<Piece> pieces;
  for (size_t batch = 0; batch < batches.size(); ++batch)
    for (int64_t chunk = batches[batch].chunk; chunk < batches[batch].end_chunk; ++chunk)
      pieces.push_back({static_cast<int64_t>(batch), chunk});
  const auto memory = std::make_unique_for_overwrite<float[]>(pieces.size() * kQueries * size);
  const auto partial = [&](int64_t piece, int64_t query) {
    return Partial{memory.get() + (piece * kQueries + query) * size, padded};
  };
  Pool::instance().run(static_cast<int64_t>(pieces.size()), [&](int64_t piece) {
    auto& tile = own_tile<typename Line<Element>::Query>();
    const Batch& batch = batches[pieces[piece].batch];
    step.fill(batch, tile);
    step.sum_chunk(batch, pieces[piece].chunk, tile);
    for (int64_t q = 0; q < batch.count; ++q) take(tile, q, partial(piece, q));
  });
  alignas(64) float sums[Partial::size(kLargest)];
  const Partial merged{sums, padded};
  int64_t piece = 0;
  for (const Batch& batch : batches) {
    for (int64_t q = 0; q < batch.count; ++q) {
      merged.clear();
      for (int64_t chunk = 0; chunk < batch.chunks(); ++chunk)
        if (step.sees(batch, q, batch.chunk + chunk)) merged.merge(partial(piece + chunk, q));
      step.finish(batch, q, merged);
    }
    piece += batch.chunks();
  }
}

// Attends with tokens' queries to the positions up to their own, which the cache holds: slots and positions [tokens].
template <typename Element>
void attend(const Shape& shape, const Rules& rules, const Cache<Element>& cache, const Rows<const float>& query,
            const int64_t* slots, const int64_t* positions, const Rows<float>& out) {
  constexpr int64_t kShares = 4;  // of the work that each thread takes, so that none waits long for another
  const Step<Element> step{shape, rules, cache, query, out, slots, positions};
  const std::vector<Batch> batches = step.batches();
  const auto count = static_cast<int64_t>(batches.size());
  const int64_t threads = Pool::instance().threads();
  const bool long_ones = std::any_of(batches.begin(), batches.end(), [](const Batch& one) { return one.chunks() > 1; });
  if (threads > 1 && count < kShares * threads && long_ones) return attend_pieces(step, batches);
  Pool::instance().run(count, [&](int64_t batch) {
    attend_batch(step, batches[batch], own_tile<typename Line<Element>::Query>());
  });
}

}  // namespace slots
