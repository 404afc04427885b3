// Weights of 8 and 4 bits in memory, and how they become the bytes that are multiplied (integers.h).
//
// Weights are packed once into tiles of 32 outputs, and these into blocks of 64 inputs of 16 lines of four inputs each.

#pragma once

#include <cstdint>
#include <cstring>

#include "integers.h"
#include "tokens.h"

namespace quantized {

constexpr int64_t kTile = 32;                        // outputs
constexpr int64_t kLines = kBlock / 4;               // four inputs of a block each
constexpr int64_t kAhead = 4096;                     // bytes that weights are asked for before they are used
constexpr int kOffset = 128;                         // of a weight of 8 bits
constexpr int kNarrowCode = 64;                      // largest magnitude of codes whose products fit into 16 bits

constexpr int64_t tiles_of(int64_t outputs) { return (outputs + kTile - 1) / kTile; }

// weight [N, K] -> packed [tiles, blocks, 16, 2, 64]: lines of four inputs, each of outputs 0 to 15 and 16 to 31.
// `packed` holds zeros, and does where nothing is written.
inline void pack8(const int8_t* weight, int64_t outputs, int64_t inputs, uint8_t* packed) {
  const int64_t lines = blocks_of(inputs) * kLines;
  for (int64_t n = 0; n < outputs; ++n)
    for (int64_t k = 0; k < inputs; ++k)
      packed[(((n / kTile) * lines + k / 4) * kTile + n % kTile) * 4 + kPlaces[k % 4]] =
          static_cast<uint8_t>(weight[n * inputs + k] + kOffset);
}

// weight [N, K], numbers below 16 -> packed [tiles, blocks, 16, 64]: lines of four inputs, outputs 0 to 15 in the
// lower halves of the bytes and 16 to 31 in the upper ones. `packed` holds zeros, and does where nothing is written.
inline void pack4(const uint8_t* weight, int64_t outputs, int64_t inputs, uint8_t* packed) {
  const int64_t lines = blocks_of(inputs) * kLines;
  for (int64_t n = 0; n < outputs; ++n)
    for (int64_t k = 0; k < inputs; ++k)
      packed[(((n / kTile) * lines + k / 4) * 16 + n % 16) * 4 + kPlaces[k % 4]] |=
          weight[n * inputs + k] << (n % kTile / 16 * 4);
}

// Weights of a tile from a block on: of 8 bits, of 4 that name codes, and of 4 that are the integers themselves. They
// are `offset()` more than what they stand for. Those `taken` of a line are as add_products multiplies them with
// `inputs`; `part` is which of the tile's 2 kParts registers of outputs they are.

struct Eight {
  const uint8_t* weights;

  Eight at(int64_t block) const { return {weights + block * kBlock * kTile}; }

  static int32_t offset() { return kOffset; }

  static const Whole* inputs(const Inputs& x) { return x.integers; }

  [[gnu::always_inline]] void ask_ahead(int64_t line) const {
    for (int64_t half = 0; half < 2; ++half) __builtin_prefetch(weights + line * 128 + half * 64 + kAhead);
  }

  [[gnu::always_inline]] Fours taken(int64_t line, int part) const {
    return as_fours(load_part<BytePart>(weights + line * 128 + part * kBytes));
  }
};

// A line of 4 bits, as much as one register holds of it, each in a byte.
[[gnu::always_inline]] inline BytePart load_fours(const uint8_t* line, int part) {
  const auto both = load_part<BytePart>(line + part % kParts * kBytes);
  return part < kParts ? both & 15 : both >> 4;
}

template <bool Narrow>
struct Coded {
  const uint8_t* weights;
  BytePart codes;

  Coded at(int64_t block) const { return {weights + block * kBlock * kTile / 2, codes}; }

  static int32_t offset() { return Narrow ? kNarrowCode : kOffset; }

  static auto inputs(const Inputs& x) {
    if constexpr (Narrow)
      return x.bytes;
    else
      return x.integers;
  }

  [[gnu::always_inline]] void ask_ahead(int64_t line) const { __builtin_prefetch(weights + line * 64 + kAhead); }

  [[gnu::always_inline]] auto taken(int64_t line, int part) const {
    const BytePart found = looked_up(codes, load_fours(weights + line * 64, part));
    if constexpr (Narrow)
      return found;
    else
      return as_fours(found);
  }
};

struct Four {
  const uint8_t* weights;
  int32_t zero;

  Four at(int64_t block) const { return {weights + block * kBlock * kTile / 2, zero}; }

  int32_t offset() const { return zero; }

  static const Whole* inputs(const Inputs& x) { return x.integers; }

  [[gnu::always_inline]] void ask_ahead(int64_t line) const { __builtin_prefetch(weights + line * 64 + kAhead); }

  [[gnu::always_inline]] BytePart line(int64_t line, int part) const { return load_fours(weights + line * 64, part); }

  [[gnu::always_inline]] Fours taken(int64_t begin, int part) const { return as_fours(line(begin, part)); }
};

// What the integers of some inputs are times, and what is added to them then, for 32 outputs: [32] each. `offsets`
// is null where nothing is. A block has one or, one behind the other, two.
struct Group {
  const float* scales;
  const float* offsets;
};

// Adds sums of products, each `scale` times what it stands for.
[[gnu::always_inline]] inline void add_scaled(IntPart sum, const float* scales, float scale, float* to) {
  const FloatPart value = __builtin_convertvector(sum, FloatPart);
  const FloatPart added = fused(value, load_part<FloatPart>(scales) * scale, load_part<FloatPart>(to));
  std::memcpy(to, &added, kBytes);
}

// Adds the offsets [32] of a group to its products' sums [count, 32]; `half` is which group of the block it is.
template <int Groups>
void add_offsets(const float* offsets, const Inputs& x, int half, int64_t count, float* sums) {
  for (int64_t m = 0; m < count; ++m) {
    const Floats whole = all(x.scaled[m].scale * static_cast<float>(x.scaled[m].sum<Groups>(half)));
    for (int64_t n = 0; n < kTile; n += kLanes)
      store(sums + m * kTile + n, fused(load(offsets + n), whole, load(sums + m * kTile + n)));
  }
}

}  // namespace quantized
