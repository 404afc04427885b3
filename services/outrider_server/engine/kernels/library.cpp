// What a process says once, and weights as the kernels take them: a part of the library's plain C interface.

#include <cstdint>

#include "elements.h"
#include "interface.h"
#include "linear.h"
#include "pool.h"
#include "quantized.h"
#include "vectors.h"
#include "weights.h"

using program::Element;

// The level that this library was compiled for.
OUTRIDER_EXPORT const char* outrider_level() { return kLevel; }

OUTRIDER_EXPORT void outrider_set_threads(int64_t threads) { Pool::instance().set_threads(threads); }

OUTRIDER_EXPORT bool outrider_use_tile_unit(bool wanted) { return linear::use_tile_unit(wanted); }

// weight [N, K] -> packed, which holds zeros; see `linear::pack`, and for 8 and 4 bits `quantized.h`.
OUTRIDER_EXPORT void outrider_pack(Element element, const void* weight, int64_t outputs, int64_t inputs,
                                   void* packed) {
  const auto pack = [&]<typename Format>(Format) {
    using Stored = typename Format::Stored;
    linear::pack<Format>(static_cast<const Stored*>(weight), outputs, inputs, static_cast<Stored*>(packed));
  };
  auto* bytes = static_cast<uint8_t*>(packed);
  switch (element) {
    case Element::kBfloat16: return pack(weights::Bfloat16{});
    case Element::kFloat16: return pack(weights::Float16{});
    case Element::kFloat32: return pack(weights::Float32{});
    case Element::kEightBits: return quantized::pack8(static_cast<const int8_t*>(weight), outputs, inputs, bytes);
    case Element::kFourBits: return quantized::pack4(static_cast<const uint8_t*>(weight), outputs, inputs, bytes);
  }
}
