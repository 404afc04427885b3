// The draw of a token at a temperature as a torch operator.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "drawing.h"

namespace {

using torch::stable::Tensor;

// logits [N, V] float32; most probable tokens [N] int64, negative where there is none; temperatures [N] float64, 0
// to 100; seeds [N] int64, the bits of unsigned ones; positions [N] int64 -> tokens [N] int64. All but the logits
// are contiguous.
Tensor draw_sampled(const Tensor& logits, const Tensor& best, const Tensor& temperatures,
                    const Tensor& seeds, const Tensor& positions) {
  const int64_t rows = logits.size(0);
  const Tensor ordered = torch::stable::contiguous(logits);
  Tensor drawn = torch::stable::new_empty(best, {rows});
  const drawing::Draws draws{static_cast<const float*>(ordered.data_ptr()),
                             static_cast<const int64_t*>(best.data_ptr()),
                             static_cast<const double*>(temperatures.data_ptr()),
                             static_cast<const int64_t*>(seeds.data_ptr()),
                             static_cast<const int64_t*>(positions.data_ptr()),
                             rows, logits.size(1)};
  drawing::draw(draws, static_cast<int64_t*>(drawn.data_ptr()));
  return drawn;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def(
      "draw_sampled(Tensor logits, Tensor best, Tensor temperatures, Tensor seeds, Tensor positions)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("draw_sampled", TORCH_BOX(&draw_sampled));
}
