"""Bits a weight of a comparison: what Outrider, and what its peers' files, call the same amount."""

from __future__ import annotations

from dataclasses import dataclass

from outrider_server.core.errors import StartupError
from outrider_server.engine.options import Quantization


@dataclass(frozen=True, slots=True)
class Weights:
    """How the linear layers are held. Embeddings and the head stay at 16 bits on both sides."""

    bits: int
    quantization: Quantization
    gguf: str
    """The type of a GGUF file's tensors; scales of Q8_0 and Q4_0 add half a bit a weight."""

    @property
    def options(self) -> tuple[str, ...]:
        """What target and draft are told."""
        return () if self.quantization == "none" else (f"--quantization={self.quantization}",)


_WEIGHTS = (Weights(16, "none", "BF16"), Weights(8, "int8", "Q8_0"), Weights(4, "nf4", "Q4_0"))


def weights_of(bits: int) -> Weights:
    """The weights of so many bits. Raises StartupError for others than 16, 8 and 4."""
    for weights in _WEIGHTS:
        if weights.bits == bits:
            return weights
    raise StartupError("bits must be 16, 8 or 4")
