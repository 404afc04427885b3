// The draw of a token at a temperature: argmax of scores plus Gumbel noise, without most of the noise.
//
// The noise is that of noise.py: g = -log(-log1p(-u)), with u from Philox4x32-10 (Salmon et al., "Parallel
// Random Numbers: As Easy as 1, 2, 3", SC 2011). Scores are those of sampling.py, in double.
//
// A token beats the best score S so far only if its own score without noise, x, has x + g >= S. As
// -log1p(-u) >= u, that takes u <= e^(x - S). So every u is held against an upper bound of that, 16 at a
// time in float, and the few that stay below are looked at in double.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "pool.h"
#include "vectors.h"

namespace drawing {

constexpr uint32_t kMultipliers[2] = {0xd2511f53, 0xcd9e8d57};
constexpr uint32_t kWeylSteps[2] = {0x9e3779b9, 0xbb67ae85};
constexpr int kRounds = 10;

constexpr int kGroups = 4;               // of 16 tokens that are looked at together
constexpr int64_t kBlock = 16 * kGroups;  // tokens
constexpr double kLog2E = 1.4426950408889634;
constexpr double kMargin = 0.002;        // added to exponents of 2: a factor of 1.0014
constexpr float kSmallest = 0x1p-54f;    // of all u
constexpr float kLowest = -100.0f;       // exponent of 2: far below that, and above slow tiny numbers

struct Row {
  const float* logits;
  int64_t size;
  float largest;
  double temperature;
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
  const double relative = static_cast<double>(row.logits[token]) - row.largest;
  return relative / row.temperature - std::log(-std::log1p(-uniform(row, token)));
}

// The first 32 bits of u of a block of tokens from `first` on, in their order. Words lie in lanes of 64 bits,
// of which only the lower halves count.
inline void high_words(const Row& row, int64_t first, Words (&words)[kGroups]) {
  const Wides multiplier0 = all_wides(kMultipliers[0]), multiplier1 = all_wides(kMultipliers[1]);
  static constexpr uint64_t kSteps[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  const Wides steps = load<Wides>(kSteps);
  Wides word0[kGroups], word1[kGroups], word2[kGroups], word3[kGroups];
  for (int group = 0; group < kGroups; ++group) {
    word0[group] = steps + all_wides(first / 2 + group * 8);
    word1[group] = all_wides(row.position);
    word2[group] = word3[group] = all_wides(0);
  }
  for (const auto& key : row.keys) {
    const Wides key0 = all_wides(key[0]), key1 = all_wides(key[1]);
    for (int group = 0; group < kGroups; ++group) {
      const Wides product0 = wide_products(word0[group], multiplier0);
      const Wides product1 = wide_products(word2[group], multiplier1);
      word0[group] = (product1 >> 32) ^ word1[group] ^ key0;
      word1[group] = product1;
      word2[group] = (product0 >> 32) ^ word3[group] ^ key1;
      word3[group] = product0;
    }
  }
  const Wides lower = all_wides(0xffffffff);
  for (int group = 0; group < kGroups; ++group)
    words[group] = same_bits<Words>((word0[group] & lower) | (word2[group] << 32));
}

// The tokens of the block whose u does not exclude them, a bit each. `offset` is -S log2(e) + kMargin, `scale`
// log2(e) / temperature; a scale that is too small only makes the limit larger.
//
// The limit 2^n (1 + f) is at least 2^(n + f), since 2^f is convex, and that at least e^(x - S): the roundings
// of scale, offset, difference and sum move the exponent by less than 2^-16 wherever it is above -64, which is
// far below kMargin, and no u is smaller than 2^-54. A limit that is no number excludes nothing.
inline uint64_t candidates(const Row& row, int64_t first, float scale, float offset) {
  const int64_t left = row.size - first;
  const uint64_t present = left >= kBlock ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
  Floats limits[kGroups];
  uint32_t reached = 0;
  for (int group = 0; group < kGroups; ++group) {
    const int64_t begin = kLanes * group;
    const auto mask = static_cast<uint32_t>(present >> begin & 0xffff);
    const Floats logits = load_some(row.logits + first + begin, left - begin);
    const Floats exponents = fused(logits - all(row.largest), all(scale), all(offset));
    // In this order what is no number stays none, and -infinity does not become one such.
    const Floats bounded = larger(all(kLowest), exponents);
    const Floats whole = floored(bounded);
    limits[group] = scaled(bounded - whole + all(1.0f), whole);
    reached |= bits_of(not_below(limits[group], all(kSmallest))) & mask;
  }
  if (!reached) return 0;
  Words words[kGroups];
  high_words(row, first, words);
  uint64_t kept = 0;
  for (int group = 0; group < kGroups; ++group) {
    // At most u but for a rounding of 2^-24, which kMargin covers too.
    const Floats least = as_floats(words[group]) * all(0x1p-32f);
    kept |= uint64_t{bits_of(not_above(least, limits[group]))} << (kLanes * group);
  }
  return kept & present;
}

// The draw of a row whose most probable token is `best`. Ties go to the lowest token id.
inline int64_t draw_row(const Row& row, int64_t best) {
  const auto scale =
      static_cast<float>(std::min<double>(kLog2E / row.temperature, std::numeric_limits<float>::max()));
  Choice choice{best, score(row, best)};
  for (int64_t first = 0; first < row.size; first += kBlock) {
    const auto offset = static_cast<float>(kMargin - choice.score * kLog2E);
    for (uint64_t left = candidates(row, first, scale, offset); left; left &= left - 1) {
      const int64_t token = first + std::countr_zero(left);
      const double found = score(row, token);
      if (found > choice.score || (found == choice.score && token < choice.token))
        choice = {token, found};
    }
  }
  return choice.token;
}

// The rows of a step, each with what its draw depends on.
struct Draws {
  const float* logits;         // [N, V]
  const int64_t* best;         // the most probable tokens, negative where there is none
  const double* temperatures;  // 0 to 100
  const int64_t* seeds;        // the bits of unsigned ones
  const int64_t* positions;
  int64_t rows, size;
};

// The token of each row. The draw after position j uses the noise of position j + 1. Where temperature is 0 or
// there is no most probable token, the answer is what `best` says.
inline void draw(const Draws& draws, int64_t* tokens) {
  Pool::instance().run(draws.rows, [&](int64_t index) {
    const int64_t best = draws.best[index];
    tokens[index] = best;
    if (best < 0 || draws.temperatures[index] == 0) return;
    const float* logits = draws.logits + index * draws.size;
    Row row{logits, draws.size, logits[best], draws.temperatures[index],
            static_cast<uint32_t>(draws.positions[index] + 1), {}};
    const auto key0 = static_cast<uint32_t>(draws.seeds[index]);
    const auto key1 = static_cast<uint32_t>(draws.seeds[index] >> 32);
    for (uint32_t round = 0; round < kRounds; ++round) {
      row.keys[round][0] = key0 + round * kWeylSteps[0];
      row.keys[round][1] = key1 + round * kWeylSteps[1];
    }
    tokens[index] = draw_row(row, best);
  });
}

}  // namespace drawing
