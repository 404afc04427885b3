// The draw of a token at a temperature: argmax of scores plus Gumbel noise, without most of the noise.
//
// The noise is that of noise.py: g = -log(-log1p(-u)), with u from Philox4x32-10 (Salmon et al., "Parallel
// Random Numbers: As Easy as 1, 2, 3", SC 2011). Scores are those of sampling.py, in double.
//
// A token beats the best score S so far only if its own score without noise, x, has x + g >= S. As
// -log1p(-u) >= u, that takes u <= e^(x - S). So every u is held against an upper bound of that, 16 at a
// time in float, and the few that stay below are looked at in double. What filters leave out is not looked at.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "filters.h"
#include "pool.h"
#include "vectors.h"

namespace drawing {

constexpr uint32_t kMultipliers[2] = {0xd2511f53, 0xcd9e8d57};
constexpr uint32_t kWeylSteps[2] = {0x9e3779b9, 0xbb67ae85};
constexpr int kRounds = 10;

constexpr int kGroups = 4;               // of 16 tokens that are looked at together
constexpr int64_t kBlock = 16 * kGroups;  // tokens
constexpr int kTogether = kBytes == 64 ? 4 : 1;  // groups whose words fit into registers
constexpr double kMargin = 0.002;        // added to exponents of 2: a factor of 1.0014
constexpr float kSmallest = 0x1p-54f;    // of all u
constexpr float kLowest = -100.0f;       // exponent of 2: far below that, and above slow tiny numbers

struct Row : Scores {
  float least;  // of the logits that filters keep
  uint32_t position;
  uint32_t keys[kRounds][2];
};

struct Choice {
  int64_t token;
  double score;
};

// The token's u, in double as noise.py has it. It may round to 1.
inline double uniform(const Row& row, int64_t token) {
  uint32_t word0 = static_cast<uint32_t>(token / 2), word1 = row.position, word2 = 0, word3 = 0;
  for (const auto& key : row.keys) {
    const uint64_t product0 = uint64_t{word0} * kMultipliers[0];
    const uint64_t product1 = uint64_t{word2} * kMultipliers[1];
    word0 = static_cast<uint32_t>(product1 >> 32) ^ word1 ^ key[0];
    word1 = static_cast<uint32_t>(product1);
    word2 = static_cast<uint32_t>(product0 >> 32) ^ word3 ^ key[1];
    word3 = static_cast<uint32_t>(product0);
  }
  const uint64_t high = token % 2 ? word2 : word0, low = token % 2 ? word3 : word1;
  return (static_cast<double>(high << 21 | low >> 11) + 0.5) * 0x1p-53;
}

inline double score(const Row& row, int64_t token) {
  return score_of(row, row.logits[token]) - std::log(-std::log1p(-uniform(row, token)));
}

// The first 32 bits of u of some groups of tokens from `first` on, in their order. Words lie in lanes of 64 bits,
// of which only the lower halves count.
template <int Groups>
[[gnu::always_inline]] inline void high_words(const Row& row, int64_t first, Words* words) {
  const Wides multiplier0 = all_wides(kMultipliers[0]), multiplier1 = all_wides(kMultipliers[1]);
  static constexpr uint64_t kSteps[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  const Wides steps = load<Wides>(kSteps);
  Wides word0[Groups], word1[Groups], word2[Groups], word3[Groups];
  for (int group = 0; group < Groups; ++group) {
    word0[group] = steps + all_wides(first / 2 + group * 8);
    word1[group] = all_wides(row.position);
    word2[group] = word3[group] = all_wides(0);
  }
  for (const auto& key : row.keys) {
    const Wides key0 = all_wides(key[0]), key1 = all_wides(key[1]);
    for (int group = 0; group < Groups; ++group) {
      const Wides product0 = wide_products(word0[group], multiplier0);
      const Wides product1 = wide_products(word2[group], multiplier1);
      word0[group] = (product1 >> 32) ^ word1[group] ^ key0;
      word1[group] = product1;
      word2[group] = (product0 >> 32) ^ word3[group] ^ key1;
      word3[group] = product0;
    }
  }
  const Wides lower = all_wides(0xffffffff);
  for (int group = 0; group < Groups; ++group)
    words[group] = same_bits<Words>((word0[group] & lower) | (word2[group] << 32));
}

// The tokens of the block, of `left` ones, whose u does not exclude them, a bit each. `offset` is
// -S log2(e) + kMargin, `scale` log2(e) / temperature; a scale that is too small only makes the limit larger.
//
// The limit 2^n (1 + f) is at least 2^(n + f), since 2^f is convex, and that at least e^(x - S): the roundings
// of scale, offset, difference and sum move the exponent by less than 2^-16 wherever it is above -64, which is
// far below kMargin, and no u is smaller than 2^-54. A limit that is no number excludes nothing.
inline uint64_t candidates(const Row& row, int64_t first, int64_t left, float scale, float offset) {
  Floats logits[kGroups], limits[kGroups];
  uint64_t present = 0, reached = 0;
  for (int group = 0; group < kGroups; ++group) {
    const int64_t begin = kLanes * group;
    logits[group] = load_logits(row.logits + first + begin, left - begin);
    present |= uint64_t{bits_of(not_below(logits[group], all(row.least)))} << begin;
  }
  if (left < kBlock) present &= (uint64_t{1} << left) - 1;
  if (!present) return 0;
  for (int group = 0; group < kGroups; ++group) {
    const Floats exponents = fused(logits[group] - all(row.largest), all(scale), all(offset));
    // In this order what is no number stays none, and -infinity does not become one such.
    const Floats bounded = larger(all(kLowest), exponents);
    const Floats whole = floored(bounded);
    limits[group] = scaled(bounded - whole + all(1.0f), whole);
    reached |= uint64_t{bits_of(not_below(limits[group], all(kSmallest)))} << (kLanes * group);
  }
  present &= reached;
  if (!present) return 0;
  Words words[kGroups];
  for (int group = 0; group < kGroups; group += kTogether)
    high_words<kTogether>(row, first + group * kLanes, words + group);
  uint64_t kept = 0;
  for (int group = 0; group < kGroups; ++group) {
    // At most u but for a rounding of 2^-24, which kMargin covers too.
    const Floats least = as_floats(words[group]) * all(0x1p-32f);
    kept |= uint64_t{bits_of(not_above(least, limits[group]))} << (kLanes * group);
  }
  return kept & present;
}

// The better of `choice` and the row's tokens from `first` to `end`. Ties go to the lowest token id.
inline Choice better(const Row& row, Choice choice, int64_t first, int64_t end) {
  const auto scale =
      static_cast<float>(std::min<double>(kLog2E / row.temperature, std::numeric_limits<float>::max()));
  for (; first < end; first += kBlock) {
    const auto offset = static_cast<float>(kMargin - choice.score * kLog2E);
    for (uint64_t left = candidates(row, first, end - first, scale, offset); left; left &= left - 1) {
      const int64_t token = first + std::countr_zero(left);
      const double found = score(row, token);
      if (found > choice.score || (found == choice.score && token < choice.token))
        choice = {token, found};
    }
  }
  return choice;
}

// The draw of a row whose most probable token is `best`.
inline int64_t draw_row(const Row& row, int64_t best, const Pieces& pieces) {
  const Choice first{best, score(row, best)};
  std::vector<Choice> choices(pieces.count);
  pieces.each([&](int64_t piece, int64_t begin, int64_t end) {
    choices[piece] = better(row, first, begin, end);
  });
  const Choice choice = *std::max_element(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) {
    return a.score < b.score || (a.score == b.score && a.token > b.token);
  });
  // Noise may be minus infinity. Where all scores are, those that filters left out tie with the others.
  return choice.score == -std::numeric_limits<double>::infinity() ? 0 : choice.token;
}

// The rows of a step, each of which belongs to a slot, and how each slot's tokens are drawn.
struct Draws {
  const float* logits;  // [N, V], rows `stride` apart
  int64_t rows, size, stride;
  const int64_t* best;  // the most probable tokens, negative where there is none
  const int64_t* slots;
  const int64_t* positions;
  const double* temperatures;  // 0 to 100
  const int64_t* top_k;
  const double* top_p;
  const double* floors;
  const int64_t* seeds;  // the bits of unsigned ones
};

inline int64_t draw_one(const Draws& draws, int64_t index, const Pieces& pieces) {
  const int64_t best = draws.best[index], slot = draws.slots[index];
  if (best < 0 || draws.temperatures[slot] == 0) return best;
  const float* logits = draws.logits + index * draws.stride;
  Row row{{logits, draws.size, logits[best], draws.temperatures[slot]},
          kNothing, static_cast<uint32_t>(draws.positions[index] + 1), {}};
  row.least = least_kept(row, {draws.top_k[slot], draws.top_p[slot], draws.floors[slot]}, pieces);
  const auto key0 = static_cast<uint32_t>(draws.seeds[slot]);
  const auto key1 = static_cast<uint32_t>(draws.seeds[slot] >> 32);
  for (uint32_t round = 0; round < kRounds; ++round) {
    row.keys[round][0] = key0 + round * kWeylSteps[0];
    row.keys[round][1] = key1 + round * kWeylSteps[1];
  }
  return draw_row(row, best, pieces);
}

// The token of each row. The draw after position j uses the noise of position j + 1. Where temperature is 0 or
// there is no most probable token, the answer is what `best` says. Threads share rows, or where these are fewer
// than threads, each row.
inline void draw(const Draws& draws, int64_t* tokens) {
  const int64_t threads = Pool::instance().threads();
  if (draws.rows >= threads) {
    Pool::instance().run(draws.rows, [&](int64_t index) {
      tokens[index] = draw_one(draws, index, Pieces::whole(draws.size));
    });
  } else {
    for (int64_t index = 0; index < draws.rows; ++index)
      tokens[index] = draw_one(draws, index, Pieces::shared(draws.size, threads));
  }
}

}  // namespace drawing
