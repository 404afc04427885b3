"""A linear layer over 8-bit weights whose result for a token depends on that token alone.

LLM.int8() (Dettmers et al., arXiv 2208.07339, section 3) multiplies 8-bit integers with a scale for each
token and each output, and keeps inputs of an unusual size, the outliers, in full precision. bitsandbytes
takes out every column in which any token of the product has an outlier, so a token's bits depend on its
neighbours. Here each token has outliers of its own. The integers are bitsandbytes' and exact.
"""

from __future__ import annotations

import torch
from torch import nn

LARGEST = 127
"""A quantized weight or input is an integer of at most this size."""


def multiply_int8(
    tokens: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    threshold: float,
) -> torch.Tensor:
    """tokens [..., K] float, weight [N, K] int8, scale [N] float32 -> [..., N] of the tokens' dtype.

    `scale` is the largest absolute weight of each output. Inputs of at least `threshold` are outliers.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    outlying = flat.abs() >= threshold
    usual = flat.masked_fill(outlying, 0).to(torch.float16)
    operators = torch.ops.bitsandbytes
    rounded, largest, _ = operators.int8_vectorwise_quant.default(usual)
    out: torch.Tensor = operators.int8_scaled_mm.default(
        rounded, weight, largest, scale, dtype=torch.float32
    )
    for index in outlying.any(dim=1).nonzero().flatten().tolist():
        columns = outlying[index].nonzero().flatten()
        full = weight[:, columns].float() * (scale / LARGEST)[:, None]
        out[index] += full @ flat[index, columns].float()
    if bias is not None:
        out += bias
    return out.to(tokens.dtype).view(*tokens.shape[:-1], -1)


# An operator of its own is opaque to the compiler, which cannot follow outliers whose number varies.
int8_linear = torch.library.custom_op("outrider::int8_linear", multiply_int8, mutates_args=())


@int8_linear.register_fake
def _int8_linear_shape(
    tokens: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    threshold: float,
) -> torch.Tensor:
    return tokens.new_empty((*tokens.shape[:-1], weight.shape[0]))


class Int8Linear(nn.Module):
    """Takes the place of bitsandbytes' `Linear8bitLt`, whose weights it keeps."""

    def __init__(
        self,
        weight: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        threshold: float,
    ) -> None:
        """weight [N, K] int8, scale [N] float32, bias [N]; a threshold of 0 takes nothing out."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Buffer(scale.float())
        self.bias = None if bias is None else nn.Buffer(bias.float())
        self.threshold = threshold or float("inf")

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [..., K] -> [..., N] of the same dtype."""
        out: torch.Tensor = int8_linear(tokens, self.weight, self.scale, self.bias, self.threshold)
        return out
