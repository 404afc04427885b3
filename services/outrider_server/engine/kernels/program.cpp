// A program's plain C interface, as library.py calls it.

#include "program.h"

#define OUTRIDER_EXPORT extern "C" __attribute__((visibility("default")))

// Copies the code's own numbers and its instructions; what these point to must stay.
OUTRIDER_EXPORT program::Program* outrider_program_make(const program::Code* code) {
  return new program::Program(*code);
}

OUTRIDER_EXPORT void outrider_program_run(const program::Program* made, const program::Step* step, int64_t end) {
  made->run(*step, end);
}

OUTRIDER_EXPORT void outrider_program_free(program::Program* made) { delete made; }

// weight [N, K] of 16 or 32 bits -> packed, which holds zeros; see `linear::pack`.
OUTRIDER_EXPORT void outrider_pack(program::Element element, const void* weight, int64_t outputs, int64_t inputs,
                                   void* packed) {
  const auto pack = [&]<typename Format>(Format) {
    using Stored = typename Format::Stored;
    linear::pack<Format>(static_cast<const Stored*>(weight), outputs, inputs, static_cast<Stored*>(packed));
  };
  if (element == program::Element::kBfloat16)
    pack(weights::Bfloat16{});
  else if (element == program::Element::kFloat16)
    pack(weights::Float16{});
  else
    pack(weights::Float32{});
}
