// What a program computes of one token alone; apart from the rest, so that both are compiled at once.

#include <cstdint>

#include "row_operations.h"

namespace program {

void run_row(const rows::Row& row, int64_t token) { rows::run(row, token); }

}  // namespace program
