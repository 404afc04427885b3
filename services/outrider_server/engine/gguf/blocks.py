"""The types of tensors: plain numbers, those that may stay as they are, and those that are widened."""

from __future__ import annotations

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from .integers import SIZES

PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
PACKED = frozenset(GGMLQuantizationType[name] for name in SIZES)
"""Types that the engine's kernels multiply with; see `integers.py`."""
WIDENED = frozenset(
    GGMLQuantizationType[name]
    for name in (
        *("Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
        *("TQ1_0", "TQ2_0", "MXFP4"),
    )
)
"""Types that only the package gguf reads."""
READ = frozenset({*PLAIN, *PACKED, *WIDENED})


def widened(blocks: torch.Tensor, kind: GGMLQuantizationType) -> torch.Tensor:
    """What rows [..., bytes] uint8 stand for: [..., K], in a plain type's own dtype, else float32."""
    if kind in PLAIN:
        return blocks.view(PLAIN[kind])
    return torch.from_numpy(np.ascontiguousarray(dequantize(blocks.numpy(), kind)))


def row_bytes(kind: GGMLQuantizationType, columns: int) -> int:
    """Bytes of a row."""
    values, size = GGML_QUANT_SIZES[kind]
    return columns // values * size
