// What weights, tables and caches hold.

#pragma once

#include <cstdint>

namespace program {

// As tables.py numbers them.
enum class Element : int64_t { kBfloat16, kFloat16, kFloat32, kEightBits, kFourBits };

}  // namespace program
