// Attention for each type of number that a slot cache holds; apart from the rest, so that both are compiled at once.

#include "slot_attention.h"

namespace slots {

#define OUTRIDER_ATTENTION(Element)                                                                               \
  template void attend<Element>(const Shape&, const Rules&, const Cache<Element>&, const Rows<const float>&,      \
                                const int64_t*, const int64_t*, const Rows<float>&);
OUTRIDER_ATTENTION(uint16_t)
OUTRIDER_ATTENTION(Half)
OUTRIDER_ATTENTION(float)
#undef OUTRIDER_ATTENTION

}  // namespace slots
