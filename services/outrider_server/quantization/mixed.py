"""LLM.int8() as a plain reference: outlier columns in full, the rest in vector-wise int8.

Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale" (arXiv 2208.07339),
section 3.2. The report itself runs bitsandbytes; this says what that computes. One difference: here the
outlier columns meet the weights as given, there weights that went through int8.
"""

from __future__ import annotations

import torch

from .quantizers import Scope, quantize_absmax

OUTLIER_THRESHOLD = 6.0
"""The paper's: a column of activations with a value of at least this magnitude is an outlier column."""


def largest_per_column(inputs: torch.Tensor) -> torch.Tensor:
    """inputs [..., K] -> [K] float32: the largest magnitude in each column, over all tokens."""
    return inputs.detach().reshape(-1, inputs.shape[-1]).abs().amax(dim=0).float()


def mixed_matmul(
    inputs: torch.Tensor, weight: torch.Tensor, threshold: float = OUTLIER_THRESHOLD
) -> torch.Tensor:
    """inputs [T, K] @ weight [N, K] transposed -> [T, N] in the dtype of the inputs.

    Columns of the inputs that hold an outlier, over all T tokens, are multiplied in float64 from the values
    as given. Of the others, each row of inputs and of weights has an int8 scale of its own. Weights are
    scaled over whole rows, as they are when they are quantized before any input is known.
    """
    outlier = largest_per_column(inputs) >= threshold
    rows = quantize_absmax(inputs.masked_fill(outlier, 0), Scope.ROW)
    columns = quantize_absmax(weight, Scope.ROW)
    sums = rows.codes.to(torch.float64) @ columns.codes.to(torch.float64).masked_fill(outlier, 0).T
    scaled = sums / (rows.scale.to(torch.float64) * columns.scale.to(torch.float64).T)
    kept = inputs[:, outlier].to(torch.float64) @ weight[:, outlier].to(torch.float64).T
    return (scaled + kept).to(inputs.dtype)
