// A model's forward pass as a list of instructions, run over the tokens of a step.
//
// Numbers between products are float32 and lie in buffers: a row for each token. What is computed of one token alone is
// run token by token; products of layers, and attention over the slot cache, run over all tokens together. All of them
// give a token the same bits whatever stands beside it.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "elements.h"
#include "linear.h"
#include "pool.h"
#include "quantized.h"
#include "row_operations.h"
#include "slot_cache.h"
#include "slot_softmax.h"
#include "weights.h"

namespace slots {

// Of slots.cpp, for each type of number that a cache holds.
template <typename Element>
void attend(const Shape& shape, const Rules& rules, const Cache<Element>& cache, const Rows<const float>& query,
            const int64_t* slots, const int64_t* positions, const Rows<float>& out);

}  // namespace slots

namespace program {

// Runs an operation for one token; of rows.cpp.
void run_row(const rows::Row& row, int64_t token);

// As tables.py numbers them.
enum class Kind : int64_t { kRow, kLookup, kProduct, kRemember, kAttend };
enum class Space : int64_t { kNone, kBuffer, kConstant };

// Where an operand lies: `place` is where the first token's buffer begins in the arena, or a constant's address; all
// but addresses are in floats.
struct Operand {
  Space space;
  int64_t place, token_stride, offset;
  int64_t strides[rows::kLoops];
};

struct Instruction {
  Kind kind;
  int64_t what;  // rows::Operation, or which table, layer or cache
  int64_t sizes[rows::kLoops];
  Operand out;
  Operand inputs[rows::kInputs];
};

// Rows of a matrix [rows, width] that are looked up; packed as a layer's weights where it is one.
struct Table {
  const void* values;
  Element element;
  int64_t rows, width, packed;
};

struct Layer {
  const void* packed;
  const float* bias;
  const float* scales;
  const float* offsets;
  const int8_t* codes;
  Element element;
  int64_t outputs, inputs, group;
};

// A layer's keys and values in the slot cache, and how it attends to them. 0 is no cap and no window.
struct Attention {
  void* keys;
  void* values;
  const float* slopes;
  Element element;
  int64_t heads, key_heads, head_dim, length, window;
  double scaling, softcap;
};

// All of a program. The arena has `row` floats for each token, and behind them its logits. The history takes the id of
// every token at its place: [slots, history_length].
struct Code {
  const Instruction* instructions;
  const Table* tables;
  const Layer* layers;
  const Attention* attentions;
  float* arena;
  int64_t* history;
  int64_t history_length;
  int64_t instruction_count, row;
  int64_t ids, positions, lengths;  // buffers of one number that a step fills
  const int64_t* own_ids;          // of the model, by the id in a step; none where it has no others
};

// The tokens of a step.
struct Step {
  int64_t tokens;
  const int64_t* ids;
  const int64_t* slots;
  const int64_t* positions;
  const int64_t* lengths;
};

class Program {
 public:
  explicit Program(const Code& code) : code_(code) {
    for (int64_t index = 0; index < code.instruction_count; ++index) {
      const Instruction& each = code.instructions[index];
      rows::Row row{static_cast<rows::Operation>(each.what), {}, place(each.out), {}};
      std::copy_n(each.sizes, rows::kLoops, row.sizes);
      for (int i = 0; i < rows::kInputs; ++i) row.inputs[i] = place(each.inputs[i]);
      rows_.push_back(row);
      numbers_.push_back(each.sizes[0] * each.sizes[1] * each.sizes[2] * each.sizes[3]);
    }
  }

  // Runs the instructions before `end`. There may be as many tokens as the arena has rows for.
  void run(const Step& step, int64_t end) const {
    for (int64_t token = 0; token < step.tokens; ++token) {
      float* row = code_.arena + token * code_.row;
      row[code_.ids] = static_cast<float>(code_.own_ids ? code_.own_ids[step.ids[token]] : step.ids[token]);
      row[code_.positions] = static_cast<float>(step.positions[token]);
      row[code_.lengths] = static_cast<float>(step.lengths[token]);
      code_.history[step.slots[token] * code_.history_length + step.positions[token]] = step.ids[token];
    }
    for (int64_t index = 0; index < end;) {
      switch (code_.instructions[index].kind) {
        case Kind::kRow:
        case Kind::kLookup: index = run_rows(step, index, end); break;
        case Kind::kProduct: index = multiply(step, index, end); break;
        case Kind::kRemember: remember(step, index++); break;
        case Kind::kAttend: attend(step, index++); break;
      }
    }
  }

 private:
  rows::Operand place(const Operand& operand) const {
    rows::Operand placed{};
    std::copy_n(operand.strides, rows::kLoops, placed.strides);
    if (operand.space == Space::kBuffer) {
      placed.first = code_.arena + operand.place + operand.offset;
      placed.token_stride = operand.token_stride;
    } else if (operand.space == Space::kConstant) {
      placed.first = reinterpret_cast<float*>(operand.place) + operand.offset;
    }
    return placed;
  }

  static bool of_rows(Kind kind) { return kind == Kind::kRow || kind == Kind::kLookup; }

  // All that follow each other and concern one token at a time; returns what comes after them.
  int64_t run_rows(const Step& step, int64_t begin, int64_t end) const {
    constexpr int64_t kWorthSharing = 1 << 17;  // numbers: some ten microseconds
    int64_t after = begin, numbers = 0;
    for (; after < end && of_rows(code_.instructions[after].kind); ++after) numbers += numbers_[after] * step.tokens;
    const auto of_token = [&](int64_t token) {
      for (int64_t index = begin; index < after; ++index)
        if (code_.instructions[index].kind == Kind::kRow)
          run_row(rows_[index], token);
        else
          look_up(code_.tables[code_.instructions[index].what], rows_[index], token);
    };
    if (numbers >= kWorthSharing)
      Pool::instance().run(step.tokens, of_token);
    else
      for (int64_t token = 0; token < step.tokens; ++token) of_token(token);
    return after;
  }

  static void look_up(const Table& table, const rows::Row& row, int64_t token) {
    const float* wanted = row.inputs[0].of(token);
    for (int64_t index = 0; index < row.sizes[2]; ++index) {
      const auto at = static_cast<int64_t>(wanted[index * row.inputs[0].strides[2]]);
      float* to = row.out.of(token) + index * row.out.strides[2];
      copy_row(table, std::clamp<int64_t>(at, 0, table.rows - 1), to);
    }
  }

  static void copy_row(const Table& table, int64_t row, float* to) {
    switch (table.element) {
      case Element::kBfloat16: return copy_row<weights::Bfloat16>(table, row, to);
      case Element::kFloat16: return copy_row<weights::Float16>(table, row, to);
      default: return copy_row<weights::Float32>(table, row, to);
    }
  }

  template <typename Format>
  static void copy_row(const Table& table, int64_t row, float* to) {
    const auto* values = static_cast<const typename Format::Stored*>(table.values);
    if (!table.packed) {
      for (int64_t k = 0; k < table.width; ++k) to[k] = Format::value(values[row * table.width + k]);
      return;
    }
    const auto* tile = values + row / linear::kTile * linear::padded(table.width) * linear::kTile;
    for (int64_t k = 0; k < table.width; ++k)
      to[k] = Format::value(tile[k / 2 * weights::kLine + Format::place(row % linear::kTile, k % 2)]);
  }

  // Products of the same tokens that follow each other are one piece of work for the threads.
  int64_t multiply(const Step& step, int64_t begin, int64_t end) const {
    const Layer& first = code_.layers[code_.instructions[begin].what];
    int64_t after = begin + 1;
    while (after < end && goes_along(begin, after)) ++after;
    const rows::Operand& x = rows_[begin].inputs[0];
    switch (first.element) {
      case Element::kBfloat16: multiply<weights::Bfloat16>(step, begin, after, x); break;
      case Element::kFloat16: multiply<weights::Float16>(step, begin, after, x); break;
      case Element::kFloat32: multiply<weights::Float32>(step, begin, after, x); break;
      default: multiply_quantized(step, begin, after, x);
    }
    return after;
  }

  bool goes_along(int64_t first, int64_t other) const {
    const Instruction &one = code_.instructions[first], &two = code_.instructions[other];
    if (two.kind != Kind::kProduct || rows_[first].inputs[0].first != rows_[other].inputs[0].first) return false;
    const Layer &layer = code_.layers[one.what], &next = code_.layers[two.what];
    return layer.element == next.element && layer.inputs == next.inputs;
  }

  template <typename Format>
  void multiply(const Step& step, int64_t begin, int64_t after, const rows::Operand& x) const {
    const auto* tokens = linear::as_rows<Format>(x.first, x.token_stride, step.tokens, layer(begin).inputs);
    run_tiles(begin, after, [&](const Layer& of, int64_t tile, const rows::Operand& y) {
      linear::multiply_tile(
          linear::Layer<Format>{static_cast<const typename Format::Stored*>(of.packed), of.bias, of.outputs, of.inputs},
          tile, tokens, step.tokens, {y.first, y.token_stride});
    });
  }

  void multiply_quantized(const Step& step, int64_t begin, int64_t after, const rows::Operand& x) const {
    const auto& tokens = quantized::as_tokens(x.first, x.token_stride, step.tokens, layer(begin).inputs);
    run_tiles(begin, after, [&](const Layer& of, int64_t tile, const rows::Operand& y) {
      quantized::multiply_tile({static_cast<const uint8_t*>(of.packed), of.scales, of.offsets, of.codes, of.bias,
                                of.outputs, of.inputs, of.group},
                               tile, tokens, {y.first, y.token_stride});
    });
  }

  // Runs work(layer, tile, y) for all tiles of 32 outputs of some products.
  template <typename Work>
  void run_tiles(int64_t begin, int64_t after, const Work& work) const {
    static_assert(linear::kTile == quantized::kTile);
    std::vector<int64_t> ends;
    for (int64_t index = begin; index < after; ++index)
      ends.push_back((ends.empty() ? 0 : ends.back()) + linear::tiles_of(layer(index).outputs));
    Pool::instance().run(ends.back(), [&](int64_t tile) {
      int64_t which = 0;
      while (tile >= ends[which]) ++which;
      work(layer(begin + which), which ? tile - ends[which - 1] : tile, rows_[begin + which].out);
    });
  }

  const Layer& layer(int64_t index) const { return code_.layers[code_.instructions[index].what]; }

  // Calls use(cache) with the layer's part of the slot cache.
  template <typename Use>
  static void with_cache(const Attention& of, const Use& use) {
    const auto as = [&]<typename Value>(Value) {
      use(slots::Cache<Value>{static_cast<Value*>(of.keys), static_cast<Value*>(of.values)});
    };
    switch (of.element) {
      case Element::kBfloat16: return as(uint16_t{});
      case Element::kFloat16: return as(slots::Half{});
      default: return as(float{});
    }
  }

  static slots::Shape shape_of(const Step& step, const Attention& of) {
    return {step.tokens, of.heads, of.key_heads, of.head_dim, of.length};
  }

  static slots::Rows<const float> heads_of(const rows::Operand& operand) {
    return {operand.first, operand.token_stride, operand.strides[2]};
  }

  void remember(const Step& step, int64_t index) const {
    const Attention& of = code_.attentions[code_.instructions[index].what];
    const rows::Row& row = rows_[index];
    with_cache(of, [&](const auto& cache) {
      slots::remember(shape_of(step, of), cache, heads_of(row.inputs[0]), heads_of(row.inputs[1]), step.slots,
                      step.positions);
    });
  }

  void attend(const Step& step, int64_t index) const {
    const Attention& of = code_.attentions[code_.instructions[index].what];
    const rows::Row& row = rows_[index];
    const slots::Rules rules{static_cast<float>(of.scaling), static_cast<float>(of.softcap), of.window, of.slopes};
    with_cache(of, [&](const auto& cache) {
      slots::attend(shape_of(step, of), rules, cache, heads_of(row.inputs[0]), step.slots, step.positions,
                    {row.out.first, row.out.token_stride, row.out.strides[2]});
    });
  }

  Code code_;
  std::vector<rows::Row> rows_;
  std::vector<int64_t> numbers_;  // that an instruction computes of a token
};

}  // namespace program
