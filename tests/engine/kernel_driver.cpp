// The kernels' arithmetic without torch, for tests: answers requests on standard input until it ends.
//
// A request is its kind and its sizes, integers of 64 bits each, and then its arrays; an answer is one array.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <variant>
#include <vector>

#include "drawing.h"
#include "linear.h"
#include "pool.h"
#include "quantized.h"
#include "row_operations.h"
#include "slot_attention.h"
#include "weights.h"

namespace {

enum Kind : int64_t {
  kName, kThreads, kTileUnit, kPack, kLinear, kRows, kDraw, kMostProbable,
  kCache, kRemember, kRecall, kAttend, kPackQuantized, kQuantized
};

template <typename Value>
std::vector<Value> take(int64_t count) {
  std::vector<Value> values(count);
  if (std::fread(values.data(), sizeof(Value), values.size(), stdin) != values.size()) std::exit(0);
  return values;
}

int64_t size() { return take<int64_t>(1)[0]; }

template <typename Value>
void give(const std::vector<Value>& values) {
  std::fwrite(values.data(), sizeof(Value), values.size(), stdout);
  std::fflush(stdout);
}

// In sixteen letters, zeros behind it.
void name() {
  std::string level = kLevel;
  level.resize(16);
  give(std::vector<char>(level.begin(), level.end()));
}

// Calls use(format) with the format of weights that comes next.
template <typename Use>
void with_format(const Use& use) {
  switch (size()) {
    case 0: return use(weights::Bfloat16{});
    case 1: return use(weights::Float16{});
    case 2: return use(weights::Float32{});
  }
}

int64_t packed_size(int64_t outputs, int64_t inputs) {
  return linear::tiles_of(outputs) * linear::kTile * linear::padded(inputs);
}

void pack() {
  with_format([]<typename Format>(Format) {
    using Stored = typename Format::Stored;
    const int64_t outputs = size(), inputs = size();
    const auto weight = take<Stored>(outputs * inputs);
    std::vector<Stored> packed(packed_size(outputs, inputs));
    linear::pack<Format>(weight.data(), outputs, inputs, packed.data());
    give(packed);
  });
}

// Tokens and outputs lie in rows of so many numbers. What lies in the outputs' rows comes with them.
void multiply() {
  with_format([]<typename Format>(Format) {
    const int64_t count = size(), outputs = size(), inputs = size(), biases = size();
    const int64_t x_stride = size(), y_stride = size();
    const auto x = take<float>(count * x_stride);
    const auto packed = take<typename Format::Stored>(packed_size(outputs, inputs));
    const auto bias = take<float>(biases);
    auto y = take<float>(count * y_stride);
    const linear::Layer<Format> layer{packed.data(), biases ? bias.data() : nullptr, outputs, inputs};
    linear::multiply(layer, x.data(), x_stride, count, {y.data(), y_stride});
    give(y);
  });
}

// Numbers of 8 bits, or of 4 in a byte each.
void pack_quantized() {
  const int64_t bits = size(), outputs = size(), inputs = size();
  const auto numbers = take<uint8_t>(outputs * inputs);
  const int64_t padded = quantized::blocks_of(inputs) * quantized::kBlock;
  std::vector<uint8_t> packed(quantized::tiles_of(outputs) * quantized::kTile * padded * bits / 8);
  if (bits == 8)
    quantized::pack8(reinterpret_cast<const int8_t*>(numbers.data()), outputs, inputs, packed.data());
  else
    quantized::pack4(numbers.data(), outputs, inputs, packed.data());
  give(packed);
}

// Tokens and outputs lie as in `multiply`. Of offsets, codes and biases there may be none.
void multiply_quantized() {
  const int64_t count = size(), outputs = size(), inputs = size(), group = size(), x_stride = size();
  const int64_t y_stride = size(), weights = size(), scaled = size(), added = size(), coded = size(), biases = size();
  const auto x = take<float>(count * x_stride);
  auto y = take<float>(count * y_stride);
  const auto packed = take<uint8_t>(weights);
  const auto scales = take<float>(scaled), offsets = take<float>(added);
  const auto codes = take<int8_t>(coded);
  const auto bias = take<float>(biases);
  quantized::multiply({packed.data(), scales.data(), added ? offsets.data() : nullptr, coded ? codes.data() : nullptr,
                       biases ? bias.data() : nullptr, outputs, inputs, group},
                      x.data(), x_stride, count, {y.data(), y_stride});
  give(y);
}

// An operand over one of some arrays; `at` says over which, where it begins there, and its strides.
rows::Operand operand(std::vector<std::vector<float>>& arrays, const int64_t* at) {
  rows::Operand placed{arrays[at[0]].data() + at[1], at[2], {}};
  std::copy_n(at + 3, rows::kLoops, placed.strides);
  return placed;
}

// One operation on rows. Operands may share an array; the outcome lies in the first one, which is answered.
void compute() {
  constexpr int kOperands = 1 + rows::kInputs, kNumbers = 3 + rows::kLoops;
  rows::Row row{static_cast<rows::Operation>(size()), {}, {}, {}};
  const int64_t tokens = size();
  for (int64_t& each : row.sizes) each = size();
  const auto lengths = take<int64_t>(kOperands), places = take<int64_t>(kOperands * kNumbers);
  std::vector<std::vector<float>> arrays;
  for (const int64_t length : lengths) arrays.push_back(take<float>(length));
  row.out = operand(arrays, places.data());
  for (int index = 0; index < rows::kInputs; ++index)
    row.inputs[index] = operand(arrays, places.data() + (1 + index) * kNumbers);
  Pool::instance().run(tokens, [&](int64_t token) { rows::run(row, token); });
  give(arrays[0]);
}

// A slot cache that stays until another one is made.
template <typename Element>
struct Held {
  slots::Shape shape{};
  std::vector<Element> keys, values;

  slots::Cache<Element> cache() { return {keys.data(), values.data()}; }
};

std::variant<Held<uint16_t>, Held<slots::Half>, Held<float>> held;

template <typename Element>
void make_cache() {
  slots::Shape shape{};
  const int64_t count = size();
  shape.key_heads = size(), shape.head_dim = size(), shape.length = size();
  held = Held<Element>{shape, std::vector<Element>(count * shape.key_heads * shape.key_size()),
                       std::vector<Element>(count * shape.key_heads * shape.value_size())};
}

void choose_cache() {
  switch (size()) {
    case 0: return make_cache<uint16_t>();
    case 1: return make_cache<slots::Half>();
    case 2: return make_cache<float>();
  }
}

// Keys and values lie in rows of both: [tokens, key heads, 2, head_dim].
template <typename Element>
void remember_in(Held<Element>& own) {
  slots::Shape shape = own.shape;
  shape.tokens = size();
  const int64_t head = 2 * shape.head_dim, token = shape.key_heads * head;
  const auto both = take<float>(shape.tokens * token);
  const auto of_slots = take<int64_t>(shape.tokens), positions = take<int64_t>(shape.tokens);
  slots::remember(shape, own.cache(), {both.data(), token, head}, {both.data() + shape.head_dim, token, head},
                  of_slots.data(), positions.data());
}

template <typename Element>
void attend_to(Held<Element>& own) {
  slots::Shape shape = own.shape;
  shape.tokens = size(), shape.heads = size();
  slots::Rules rules{};
  rules.window = size();
  const int64_t sloped = size(), token = shape.heads * shape.head_dim;
  const auto numbers = take<float>(2), slopes = take<float>(sloped);
  rules.scaling = numbers[0], rules.softcap = numbers[1], rules.slopes = sloped ? slopes.data() : nullptr;
  const auto query = take<float>(shape.tokens * token);
  const auto of_slots = take<int64_t>(shape.tokens), positions = take<int64_t>(shape.tokens);
  std::vector<float> out(shape.tokens * token);
  slots::attend(shape, rules, own.cache(), {query.data(), token, shape.head_dim}, of_slots.data(), positions.data(),
                {out.data(), token, shape.head_dim});
  give(out);
}

void recall() {
  std::visit([](auto& own) { give(own.keys), give(own.values); }, held);
}

// As many slots as rows.
void draw() {
  const int64_t rows = size(), vocabulary = size();
  const auto logits = take<float>(rows * vocabulary);
  const auto best = take<int64_t>(rows), slots = take<int64_t>(rows), positions = take<int64_t>(rows);
  const auto temperatures = take<double>(rows);
  const auto top_k = take<int64_t>(rows);
  const auto top_p = take<double>(rows), floors = take<double>(rows);
  const auto seeds = take<int64_t>(rows);
  std::vector<int64_t> tokens(rows);
  drawing::draw({logits.data(), rows, vocabulary, vocabulary, best.data(), slots.data(), positions.data(),
                 temperatures.data(), top_k.data(), top_p.data(), floors.data(), seeds.data()},
                tokens.data());
  give(tokens);
}

void choose() {
  const int64_t rows = size(), vocabulary = size();
  const bool hidden = size() != 0;
  const auto logits = take<float>(rows * vocabulary);
  std::vector<int64_t> best(rows);
  for (int64_t row = 0; row < rows; ++row)
    best[row] = drawing::most_probable(logits.data() + row * vocabulary, vocabulary, hidden);
  give(best);
}

}  // namespace

int main() {
  while (true) {
    switch (size()) {
      case kName: name(); break;
      case kThreads: Pool::instance().set_threads(size()); break;
      case kTileUnit: give<int64_t>({linear::use_tile_unit(size() != 0)}); break;
      case kPack: pack(); break;
      case kLinear: multiply(); break;
      case kRows: compute(); break;
      case kDraw: draw(); break;
      case kMostProbable: choose(); break;
      case kCache: choose_cache(); break;
      case kRemember: std::visit([](auto& own) { remember_in(own); }, held); break;
      case kRecall: recall(); break;
      case kAttend: std::visit([](auto& own) { attend_to(own); }, held); break;
      case kPackQuantized: pack_quantized(); break;
      case kQuantized: multiply_quantized(); break;
    }
  }
}
