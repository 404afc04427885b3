// What top-k, top-p and min-p keep of a row of logits, as sampling.py has it: all that are at least a threshold.
//
// No row is sorted. The k-th largest of a row is at least the k-th largest of its chunks' maxima, so few logits are
// candidates for it. Top-p adds up what tokens weigh in whole numbers, so in any order: in bins first, whose border
// it crosses is then searched exactly.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "pool.h"
#include "vectors.h"

namespace drawing {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr double kLog2E = 1.4426950408889634;

// Logits of a slot's next token, of which `largest` is the largest. None is NaN or more than a float holds.
struct Scores {
  const float* logits;
  int64_t size;
  float largest;
  double temperature;
};

struct Filters {
  int64_t top_k;  // 0: all
  double top_p;   // 1: all
  double floor;   // of scores, at most 0; minus infinity: all
};

inline double score_of(const Scores& row, float logit) {
  return (static_cast<double>(logit) - row.largest) / row.temperature;
}

// A row's tokens in runs of neighbours, which threads share where there is more than one.
struct Pieces {
  static constexpr int64_t kLeast = 8192, kStep = 1024;  // tokens

  int64_t size, length, count;

  static Pieces whole(int64_t size) { return {size, size, 1}; }

  static Pieces shared(int64_t size, int64_t threads) {
    const int64_t wanted = std::clamp<int64_t>(size / kLeast, 1, 2 * threads);
    const int64_t length = (size / wanted + kStep) / kStep * kStep;
    return {size, length, (size + length - 1) / length};
  }

  // Runs work(piece, begin, end) for each.
  template <typename Work>
  void each(const Work& work) const {
    if (count == 1) return work(0, 0, size);
    Pool::instance().run(count, [&](int64_t piece) {
      work(piece, piece * length, std::min(size, (piece + 1) * length));
    });
  }
};

// The first `count` of sixteen, and `padding` behind them.
[[gnu::always_inline]] inline Floats load_logits(const float* from, int64_t count, float padding = kNothing) {
  if (count >= kLanes) [[likely]] return load(from);
  return select(first_lanes(count), load_some(from, count), all(padding));
}

// The first of a row's largest logits. Negative where they are no numbers: where one is NaN or infinite or, of a row
// of which some are `hidden` by minus infinity, where all are that.
inline int64_t most_probable(const float* logits, int64_t size, bool hidden) {
  Floats most = all(logits[0]), zeros = all(0.0f);
  for (int64_t token = 0; token < size; token += kLanes) {
    const Floats found = load_logits(logits + token, size - token, logits[0]);
    most = larger(found, most);
    if (!hidden) zeros = fused(found, all(0.0f), zeros);  // NaN from then on where one is no number
  }
  const float largest = largest_of(most);
  if (sum_of(zeros) != 0 || !std::isfinite(largest)) return -1;
  for (int64_t token = 0;; token += kLanes) {
    const Masks found = not_below(load_logits(logits + token, size - token), all(largest));
    if (const uint32_t bits = bits_of(found)) return token + std::countr_zero(bits);
  }
}

constexpr int64_t kChunkVectors = 16;
constexpr int64_t kChunk = kChunkVectors * kLanes;

// The largest of each lane of each chunk, sixteen a chunk.
inline std::vector<float> chunk_maxima(const float* from, const Pieces& pieces) {
  std::vector<float> maxima((pieces.size + kChunk - 1) / kChunk * kLanes);
  pieces.each([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kChunk) {
      Floats most = all(kNothing);
      for (int64_t token = first; token < std::min(end, first + kChunk); token += kLanes)
        most = larger(load_logits(from + token, end - token), most);
      store(maxima.data() + first / kChunkVectors, most);
    }
  });
  return maxima;
}

// The k-th largest of some values, and every value that is at least that.
struct Largest {
  float least;
  std::vector<float> values;
};

inline Largest largest_values(const float* from, int64_t k, const Pieces& pieces) {
  std::vector<float> values;
  if (k > pieces.size / kChunkVectors / 4) {
    values.assign(from, from + pieces.size);
  } else {
    const std::vector<float> maxima = chunk_maxima(from, pieces);
    const auto count = static_cast<int64_t>(maxima.size());
    const Floats bound = all(largest_values(maxima.data(), k, Pieces::whole(count)).least);
    for (int64_t chunk = 0; chunk < count; chunk += kLanes) {
      if (!bits_of(not_below(load(maxima.data() + chunk), bound))) continue;
      const int64_t first = chunk * kChunkVectors, end = std::min(pieces.size, first + kChunk);
      for (int64_t token = first; token < end; token += kLanes) {
        const Masks found = not_below(load_logits(from + token, end - token), bound);
        for (uint32_t left = bits_of(found) & low_bits(end - token); left; left &= left - 1)
          values.push_back(from[token + std::countr_zero(left)]);
      }
    }
  }
  std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), [](float a, float b) { return a > b; });
  const float least = values[k - 1];
  const auto tied = std::partition(values.begin() + k, values.end(), [&](float value) { return value >= least; });
  values.erase(tied, values.end());
  return {least, std::move(values)};
}

// A distance from the largest logit is counted in 2^-16 of an octave; a token an octave further weighs half as much.
constexpr int kFractionBits = 16;
constexpr uint32_t kOctave = 1 << kFractionBits;
constexpr uint32_t kFarthest = 32 * kOctave - 1;
constexpr int kBinBits = 10;  // of a distance that share a bin
constexpr int64_t kBatch = 1024;  // tokens that are weighed before they are put into bins
constexpr int64_t kBins = 32 * kOctave >> kBinBits;

inline float octave_scale(double temperature) {
  return static_cast<float>(
      std::min<double>(kOctave * kLog2E / temperature, std::numeric_limits<float>::max()));
}

inline Words distances(const Floats& logits, const Floats& largest, const Floats& scale) {
  return as_words(rounded(smaller((largest - logits) * scale, all(static_cast<float>(kFarthest)))));
}

// 2^31 for the largest, and for a distance of d octaves 2^(31 - d), in whole numbers.
inline Words masses(const Words& distances) {
  const Words octave = all_words(kOctave), part = distances & all_words(kOctave - 1);
  const Words bend = all_words(25303) - ((part * (all_words(6072) - ((part * all_words(887)) >> 16))) >> 16);
  const Words curve = ((part * (octave - part)) >> 13) * bend;
  return (all_words(0x80000000) - (part << 14) - (curve >> 5)) >> (distances >> kFractionBits);
}

struct Weighed {
  float logit;
  uint32_t mass;
};

// The largest logit with which all that are at least that have the mass that is wanted. `found` has it.
inline float crossing(std::vector<Weighed>& found, uint64_t wanted) {
  auto begin = found.begin(), end = found.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, [](const Weighed& a, const Weighed& b) { return a.logit > b.logit; });
    uint64_t mass = 0;
    for (auto each = begin; each != middle; ++each) mass += each->mass;
    if (mass >= wanted) {
      end = middle;
    } else {
      wanted -= mass;
      begin = middle;
    }
  }
  return begin->logit;
}

// The least of the logits that top-p keeps of some that have the row's largest.
inline float nucleus(const Scores& row, const float* from, double top_p, const Pieces& pieces) {
  const Floats largest = all(row.largest), scale = all(octave_scale(row.temperature));
  std::vector<uint64_t> bins(pieces.count * kBins);
  pieces.each([&](int64_t piece, int64_t begin, int64_t end) {
    uint64_t* own = bins.data() + piece * kBins;
    for (; begin < end; begin += kBatch) {
      const int64_t count = std::min(kBatch, end - begin);
      uint32_t bin[kBatch], mass[kBatch];
      for (int64_t token = 0; token < count; token += kLanes) {
        const Words far = distances(load_logits(from + begin + token, count - token), largest, scale);
        store(bin + token, far >> kBinBits);
        store(mass + token, masses(far));
      }
      for (int64_t token = 0; token < count; ++token) own[bin[token]] += mass[token];
    }
  });
  uint64_t total = 0;
  for (int64_t bin = 0; bin < kBins; ++bin) {
    for (int64_t piece = 1; piece < pieces.count; ++piece) bins[bin] += bins[piece * kBins + bin];
    total += bins[bin];
  }
  auto wanted = static_cast<uint64_t>(std::ceil(top_p * static_cast<double>(total)));
  uint32_t crossed = 0;
  for (; bins[crossed] < wanted; ++crossed) wanted -= bins[crossed];

  std::vector<std::vector<Weighed>> found(pieces.count);
  pieces.each([&](int64_t piece, int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; token += kLanes) {
      const Words far = distances(load_logits(from + token, end - token), largest, scale);
      uint32_t left = ~bits_of(differ(far >> kBinBits, all_words(crossed))) & low_bits(end - token);
      if (!left) continue;
      uint32_t mass[kLanes];
      store(mass, masses(far));
      for (; left; left &= left - 1) {
        const int lane = std::countr_zero(left);
        found[piece].push_back({from[token + lane], mass[lane]});
      }
    }
  });
  for (int64_t piece = 1; piece < pieces.count; ++piece)
    found[0].insert(found[0].end(), found[piece].begin(), found[piece].end());
  return crossing(found[0], wanted);
}

// Floats as whole numbers of the same order; both zeros are one.
inline int64_t order_of(float value) {
  const auto bits = std::bit_cast<int32_t>(value);
  return bits >= 0 ? bits : -static_cast<int64_t>(bits & 0x7fffffff);
}

inline float of_order(int64_t order) {
  return order >= 0 ? std::bit_cast<float>(static_cast<int32_t>(order))
                    : -std::bit_cast<float>(static_cast<int32_t>(-order));
}

// The least float whose score is at least the floor.
inline float least_above(const Scores& row, double floor) {
  int64_t low = order_of(kNothing), high = order_of(row.largest);
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (score_of(row, of_order(middle)) >= floor)
      high = middle;
    else
      low = middle + 1;
  }
  return of_order(high);
}

// The least logit that the filters keep: top-k first, top-p of what that leaves, and min-p.
inline float least_kept(const Scores& row, const Filters& filters, const Pieces& pieces) {
  float least = kNothing;
  Largest top;
  const bool few = filters.top_k > 0 && filters.top_k < row.size;
  if (few) {
    top = largest_values(row.logits, filters.top_k, pieces);
    least = top.least;
  }
  if (filters.top_p < 1) {
    const auto left = few ? Pieces::whole(static_cast<int64_t>(top.values.size())) : pieces;
    least = nucleus(row, few ? top.values.data() : row.logits, filters.top_p, left);
  }
  return filters.floor > -std::numeric_limits<double>::infinity() ? std::max(least, least_above(row, filters.floor))
                                                                  : least;
}

}  // namespace drawing
