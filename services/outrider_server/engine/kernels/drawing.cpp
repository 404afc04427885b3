// The draw of a token at a temperature as a torch operator.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "drawing.h"

namespace {

using torch::stable::Tensor;

template <typename Number>
const Number* numbers(const Tensor& tensor) {
  return static_cast<const Number*>(tensor.data_ptr());
}

// logits [N, V] float32 as rows of neighbours.
Tensor in_rows(const Tensor& logits) { return logits.stride(1) == 1 ? logits : torch::stable::contiguous(logits); }

// logits [N, V] float32 -> the first of each row's largest ones [N] int64, as `most_probable` has it.
Tensor most_probable(const Tensor& logits, bool hidden) {
  const int64_t rows = logits.size(0), size = logits.size(1);
  Tensor best = torch::stable::new_empty(logits, {rows}, torch::headeronly::ScalarType::Long);
  const Tensor ordered = in_rows(logits);
  const auto* from = numbers<float>(ordered);
  auto* to = static_cast<int64_t*>(best.data_ptr());
  Pool::instance().run(rows, [&](int64_t row) {
    to[row] = drawing::most_probable(from + row * ordered.stride(0), size, hidden);
  });
  return best;
}

// logits [N, V] float32; most probable tokens [N] int64, negative where there is none; slots
// and positions [N] int64; and for each slot temperature [S] float64, 0 to 100, top-k [S] int64, top-p [S] float64,
// the least score [S] float64, seed [S] int64, the bits of an unsigned one -> tokens [N] int64. All but the
// logits are contiguous.
Tensor draw_sampled(const Tensor& logits, const Tensor& best, const Tensor& slots, const Tensor& positions,
                    const Tensor& temperatures, const Tensor& top_k, const Tensor& top_p, const Tensor& floors,
                    const Tensor& seeds) {
  const int64_t rows = logits.size(0), size = logits.size(1);
  Tensor drawn = torch::stable::new_empty(best, {rows});
  const Tensor ordered = in_rows(logits);
  const drawing::Draws draws{numbers<float>(ordered), rows, size, ordered.stride(0), numbers<int64_t>(best),
                             numbers<int64_t>(slots), numbers<int64_t>(positions), numbers<double>(temperatures),
                             numbers<int64_t>(top_k), numbers<double>(top_p), numbers<double>(floors),
                             numbers<int64_t>(seeds)};
  drawing::draw(draws, static_cast<int64_t*>(drawn.data_ptr()));
  return drawn;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def("most_probable(Tensor logits, bool hidden) -> Tensor");
  library.def(
      "draw_sampled(Tensor logits, Tensor best, Tensor slots, Tensor positions, Tensor temperatures, Tensor top_k,"
      " Tensor top_p, Tensor floors, Tensor seeds) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("most_probable", TORCH_BOX(&most_probable));
  library.impl("draw_sampled", TORCH_BOX(&draw_sampled));
}
