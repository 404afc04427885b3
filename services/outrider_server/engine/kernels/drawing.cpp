// Draws of tokens: a part of the library's plain C interface.

#include "drawing.h"

#include <cstdint>

#include "interface.h"
#include "pool.h"

// logits [N, V], rows `stride` apart -> the first of each row's largest ones [N], as `most_probable` has it.
OUTRIDER_EXPORT void outrider_most_probable(const float* logits, int64_t rows, int64_t size, int64_t stride,
                                            bool hidden, int64_t* best) {
  Pool::instance().run(
      rows, [&](int64_t row) { best[row] = drawing::most_probable(logits + row * stride, size, hidden); });
}

// -> tokens [N]
OUTRIDER_EXPORT void outrider_draw(const drawing::Draws* draws, int64_t* tokens) { drawing::draw(*draws, tokens); }
