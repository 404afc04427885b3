// What a step computes of one token's numbers alone: operations over rows of float32, one row a token.
//
// An operation has up to four nested loops, the innermost over numbers that are taken sixteen at a time. Its operands
// lie anywhere: a stride for each loop, 0 where an operand is the same all along.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "functions.h"
#include "vectors.h"

namespace rows {

constexpr int kLoops = 4;
constexpr int kInputs = 3;

// As tables.py numbers them.
enum class Operation : int64_t {
  kCopy, kNegate, kAbsolute, kSquareRoot, kReciprocalSquareRoot, kReciprocal, kExponential, kDecay, kLogarithm, kSine,
  kCosine, kTanh, kSigmoid, kSilu, kGelu, kGeluTanh, kErf, kRelu, kFloor, kNot,
  kAdd, kSubtract, kMultiply, kDivide, kPower, kLarger, kSmaller, kEqual, kLess, kAtMost, kAnd, kOr,
  kSelect,
  kSum, kLargest,
  kTop,
};

struct Operand {
  float* first;  // of token 0
  int64_t token_stride;
  int64_t strides[kLoops];

  float* of(int64_t token) const { return first + token * token_stride; }
};

struct Row {
  Operation operation;
  int64_t sizes[kLoops];
  Operand out;
  Operand inputs[kInputs];
};

[[gnu::always_inline]] inline Floats fetch(const float* from, int64_t stride, int64_t count) {
  if (stride == 1) return load_some(from, count);
  if (stride == 0) return all(*from);
  float held[kLanes] = {};
  for (int64_t lane = 0; lane < std::min<int64_t>(count, kLanes); ++lane) held[lane] = from[lane * stride];
  return load(held);
}

[[gnu::always_inline]] inline void put(float* to, int64_t stride, int64_t count, const Floats& values) {
  if (stride == 1 && count >= kLanes) return store(to, values);
  float held[kLanes];
  store(held, values);
  for (int64_t lane = 0; lane < std::min<int64_t>(count, kLanes); ++lane) to[lane * stride] = held[lane];
}

// Calls inner(out, inputs) at the beginning of every innermost loop, for the outer three.
template <int Inputs, typename Inner>
void each_line(const Row& row, int64_t token, const Inner& inner) {
  float* out = row.out.of(token);
  const float* inputs[Inputs];
  for (int i = 0; i < Inputs; ++i) inputs[i] = row.inputs[i].of(token);
  for (int64_t a = 0; a < row.sizes[0]; ++a)
    for (int64_t b = 0; b < row.sizes[1]; ++b)
      for (int64_t c = 0; c < row.sizes[2]; ++c) {
        const auto offset = [&](const Operand& of) {
          return a * of.strides[0] + b * of.strides[1] + c * of.strides[2];
        };
        const float* from[Inputs];
        for (int i = 0; i < Inputs; ++i) from[i] = inputs[i] + offset(row.inputs[i]);
        inner(out + offset(row.out), from);
      }
}

// Calls function(values) for sixteen numbers of an innermost loop at a time. Where every operand's follow each other,
// or are one and the same, no stride is looked at.
template <int Inputs, typename Function>
void each_number(const Row& row, int64_t token, const Function& function) {
  const int64_t size = row.sizes[3], to = row.out.strides[3];
  int64_t strides[Inputs];
  bool dense = to == 1;
#pragma GCC unroll 3
  for (int i = 0; i < Inputs; ++i) {
    strides[i] = row.inputs[i].strides[3];
    dense &= strides[i] == 0 || strides[i] == 1;
  }
  each_line<Inputs>(row, token, [&](float* out, const float* const (&from)[Inputs]) {
    float same[Inputs][kLanes];
    const float* begins[Inputs];
#pragma GCC unroll 3
    for (int i = 0; i < Inputs; ++i) {
      if (strides[i] == 0) store(same[i], all(*from[i]));
      begins[i] = strides[i] == 0 ? same[i] : from[i];
    }
    for (int64_t first = 0; first < size; first += kLanes) {
      const int64_t left = size - first;
      const bool whole = dense && left >= kLanes;
      Floats values[Inputs];
#pragma GCC unroll 3
      for (int i = 0; i < Inputs; ++i)
        values[i] = whole ? load(begins[i] + first * strides[i])
                          : fetch(from[i] + first * strides[i], strides[i], left);
      const Floats results = function(values);
      if (whole)
        store(out + first, results);
      else
        put(out + first * to, to, left, results);
    }
  });
}

template <typename Function>
void unary(const Row& row, int64_t token, const Function& function) {
  each_number<1>(row, token, [&](const Floats (&x)[1]) { return function(x[0]); });
}

template <typename Function>
void binary(const Row& row, int64_t token, const Function& function) {
  each_number<2>(row, token, [&](const Floats (&x)[2]) { return function(x[0], x[1]); });
}

// A number at a time, by the C library.
template <typename Function>
void plain_unary(const Row& row, int64_t token, const Function& function) {
  unary(row, token, [&](const Floats& x) { return functions::one_by_one(x, function); });
}

template <typename Function>
void plain_binary(const Row& row, int64_t token, const Function& function) {
  binary(row, token, [&](const Floats& x, const Floats& y) {
    float a[kLanes], b[kLanes];
    store(a, x);
    store(b, y);
    for (int lane = 0; lane < kLanes; ++lane) a[lane] = function(a[lane], b[lane]);
    return load(a);
  });
}

// The sum, or the largest, of the numbers of the innermost loop; times the second input, one number. What is no
// number makes a result that is none.
inline void sum_up(const Row& row, int64_t token) {
  each_line<2>(row, token, [&](float* out, const float* const (&from)[2]) {
    const int64_t stride = row.inputs[0].strides[3];
    Floats sums = all(0.0f);
    for (int64_t first = 0; first < row.sizes[3]; first += kLanes) {
      const int64_t left = row.sizes[3] - first;
      sums = sums + select(first_lanes(left), fetch(from[0] + first * stride, stride, left), all(0.0f));
    }
    *out = sum_of(sums) * *from[1];
  });
}

inline void find_largest(const Row& row, int64_t token) {
  each_line<1>(row, token, [&](float* out, const float* const (&from)[1]) {
    float largest = *from[0];
    for (int64_t index = 1; index < row.sizes[3]; ++index) {
      const float value = from[0][index * row.inputs[0].strides[3]];
      largest = value > largest || value != value ? value : largest;
    }
    *out = largest;
  });
}

// The largest numbers of the innermost loop, descending, and their places, which lie behind them: so many as the third
// loop says. Of equal ones those that come first.
inline void find_top(const Row& row, int64_t token) {
  const float* from = row.inputs[0].of(token);
  const int64_t stride = row.inputs[0].strides[3], size = row.sizes[3], wanted = row.sizes[2];
  float* out = row.out.of(token);
  for (int64_t found = 0; found < wanted; ++found) {
    int64_t best = -1;
    for (int64_t index = 0; index < size; ++index) {
      bool taken = false;
      for (int64_t earlier = 0; earlier < found; ++earlier) taken |= out[wanted + earlier] == static_cast<float>(index);
      if (!taken && (best < 0 || from[index * stride] > from[best * stride])) best = index;
    }
    out[found] = from[best * stride];
    out[wanted + found] = static_cast<float>(best);
  }
}

inline Floats untruth(const Masks& masks) { return select(masks, all(0.0f), all(1.0f)); }

inline void run(const Row& row, int64_t token) {
  using functions::square_root;
  const auto one = [&](const auto& function) { unary(row, token, function); };
  const auto two = [&](const auto& function) { binary(row, token, function); };
  const Floats zero = all(0.0f), unit = all(1.0f);
  switch (row.operation) {
    case Operation::kCopy: return one([](const Floats& x) { return x; });
    case Operation::kNegate: return one([](const Floats& x) { return all(-1.0f) * x; });
    case Operation::kAbsolute: return one(functions::magnitude);
    case Operation::kSquareRoot: return one(square_root);
    case Operation::kReciprocalSquareRoot: return one([&](const Floats& x) { return unit / square_root(x); });
    case Operation::kReciprocal: return one([&](const Floats& x) { return unit / x; });
    case Operation::kExponential: return plain_unary(row, token, [](float x) { return std::exp(x); });
    case Operation::kDecay: return one(functions::decay);
    case Operation::kLogarithm: return plain_unary(row, token, [](float x) { return std::log(x); });
    case Operation::kSine: return plain_unary(row, token, [](float x) { return std::sin(x); });
    case Operation::kCosine: return plain_unary(row, token, [](float x) { return std::cos(x); });
    case Operation::kTanh: return one(functions::tanh);
    case Operation::kSigmoid: return one(functions::sigmoid);
    case Operation::kSilu: return one(functions::silu);
    case Operation::kGelu: return one(functions::gelu);
    case Operation::kGeluTanh: return one(functions::gelu_tanh);
    case Operation::kErf: return one(functions::erf);
    case Operation::kRelu: return one([&](const Floats& x) { return select(not_above(zero, x), x, zero); });
    case Operation::kFloor: return one(floored);
    case Operation::kNot:
      return one([&](const Floats& x) { return untruth(not_at_most(functions::magnitude(x), zero)); });
    case Operation::kAdd: return two([](const Floats& x, const Floats& y) { return x + y; });
    case Operation::kSubtract: return two([](const Floats& x, const Floats& y) { return x - y; });
    case Operation::kMultiply: return two([](const Floats& x, const Floats& y) { return x * y; });
    case Operation::kDivide: return two([](const Floats& x, const Floats& y) { return x / y; });
    case Operation::kPower: return plain_binary(row, token, [](float x, float y) { return std::pow(x, y); });
    case Operation::kLarger:
      return plain_binary(row, token, [](float x, float y) { return x > y || x != x ? x : y; });
    case Operation::kSmaller:
      return plain_binary(row, token, [](float x, float y) { return x < y || x != x ? x : y; });
    case Operation::kEqual: return plain_binary(row, token, [](float x, float y) { return x == y ? 1.0f : 0.0f; });
    case Operation::kLess: return two([](const Floats& x, const Floats& y) { return untruth(not_below(x, y)); });
    case Operation::kAtMost: return two([](const Floats& x, const Floats& y) { return untruth(not_at_most(x, y)); });
    case Operation::kAnd:
      return plain_binary(row, token, [](float x, float y) { return x != 0 && y != 0 ? 1.0f : 0.0f; });
    case Operation::kOr:
      return plain_binary(row, token, [](float x, float y) { return x != 0 || y != 0 ? 1.0f : 0.0f; });
    case Operation::kSelect:
      return each_number<3>(row, token, [&](const Floats (&x)[3]) {
        return select(not_at_most(functions::magnitude(x[0]), zero), x[1], x[2]);
      });
    case Operation::kSum: return sum_up(row, token);
    case Operation::kLargest: return find_largest(row, token);
    case Operation::kTop: return find_top(row, token);
  }
}

}  // namespace rows
