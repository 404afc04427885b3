// Attention over the slot cache as a torch operator.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "attention.h"

namespace {

using torch::stable::Tensor;

// query [1, H, T, D]; keys, values [S, K, L, D]; places [1, 1, T, 2] int64 (slot, position)
// -> [1, T, H, D]. bfloat16, D a multiple of 32 up to 256, L a multiple of 64.
Tensor packed_attention(const Tensor& query, const Tensor& keys, const Tensor& values,
                        const Tensor& places, double scaling) {
  const int64_t tokens = query.size(2), heads = query.size(1), dim = query.size(3);
  Tensor out = torch::stable::new_empty(query, {1, tokens, heads, dim});
  const attention::Shape shape{tokens, heads, keys.size(1), dim, keys.size(2),
                               query.stride(2), query.stride(1), static_cast<float>(scaling)};
  const attention::Step step{static_cast<const uint16_t*>(query.data_ptr()),
                             static_cast<const uint16_t*>(keys.data_ptr()),
                             static_cast<const uint16_t*>(values.data_ptr()),
                             static_cast<const int64_t*>(places.data_ptr()),
                             static_cast<uint16_t*>(out.data_ptr())};
  attention::attend(shape, step);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(outrider, library) {
  library.def(
      "packed_attention(Tensor query, Tensor keys, Tensor values, Tensor places, float scaling)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(outrider, CPU, library) {
  library.impl("packed_attention", TORCH_BOX(&packed_attention));
}
