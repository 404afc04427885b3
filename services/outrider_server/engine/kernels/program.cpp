// Programs: a part of the library's plain C interface.

#include "program.h"

#include <cstdint>

#include "interface.h"

// Copies the code's own numbers and its instructions; what these point to must stay.
OUTRIDER_EXPORT program::Program* outrider_program_make(const program::Code* code) {
  return new program::Program(*code);
}

OUTRIDER_EXPORT void outrider_program_run(const program::Program* made, const program::Step* step, int64_t end) {
  made->run(*step, end);
}

OUTRIDER_EXPORT void outrider_program_free(program::Program* made) { delete made; }
