"""Linear layers of GPTQ and AWQ checkpoints: how their tensors hold integers, scales and zeros.

Both keep a weight as `scale * (number - zero)`, with scale and zero of its output and a group of inputs, and
pack numbers and zeros into words of 32 bits, the first one lowest (GPTQ: Frantar et al., arXiv 2210.17323, as
AutoGPTQ and GPTQModel save it; AWQ: Lin et al., arXiv 2306.00978, as AutoAWQ's "gemm" saves it):

            GPTQ                              AWQ
    qweight [K * bits / 32, N], by inputs     [K, N / 8], by outputs in the order of AWQ_ORDER
    qzeros  [groups, N * bits / 32]           [groups, N / 8] in that order
    scales  [groups, N]                       [groups, N]
    g_idx   [K], the group of each input

The format "gptq" stores zeros less one, "gptq_v2" as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ...core.errors import ModelRefused

GPTQ = "gptq"
AWQ = "awq"
READ_HERE = (GPTQ, AWQ)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which output of eight each number of a word is of."""
WORD_BITS = 32
GROUP_STEP = 32
"""Groups of inputs that the engine's kernels take are multiples of this."""
LESS_ONE = {4: 0x11111111, 8: 0x01010101}
"""One for each number of a word. Added to the word, so that what a writer has borrowed comes back."""


@dataclass(frozen=True, slots=True)
class StoredFormat:
    """How a checkpoint keeps its quantized layers."""

    method: str
    bits: int
    group: int
    """Inputs that share a scale; 0 for all."""
    zeros_less_one: bool = False
    reordered: bool = False
    """Whether inputs may be of any group, as `g_idx` says."""

    def sizes(self, outputs: int, inputs: int) -> dict[str, tuple[int, int]]:
        """The shapes of a layer's tensors, by name."""
        fields = WORD_BITS // self.bits
        groups = self.groups(inputs)
        by_inputs = (inputs // fields, outputs)
        by_outputs = (inputs, outputs // fields)
        return {
            "qweight": by_inputs if self.method == GPTQ else by_outputs,
            "qzeros": (groups, outputs // fields),
            "scales": (groups, outputs),
        }

    def groups(self, inputs: int) -> int:
        """Scales of an output."""
        return -(-inputs // self.group) if self.group else 1

    def layer_size(self, qweight: tuple[int, ...]) -> tuple[int, int]:
        """(outputs, inputs) of a layer, by the shape of its `qweight`."""
        rows, columns = qweight
        fields = WORD_BITS // self.bits
        return (columns, rows * fields) if self.method == GPTQ else (columns * fields, rows)


def stored_format(settings: Mapping[str, Any]) -> StoredFormat:
    """The format that a `quantization_config` names. Raises ModelRefused for one that is not read here."""
    method = str(settings.get("quant_method"))
    bits = settings.get("bits", settings.get("w_bit"))
    group = settings.get("group_size", settings.get("q_group_size"))
    admitted = (4, 8) if method == GPTQ else (4,)
    if bits not in admitted:
        named = " or ".join(map(str, admitted))
        raise ModelRefused(f"outrider itself reads {method} of {named} bits only, not of {bits!r}")
    if type(group) is not int or not (group == -1 or (group > 0 and group % GROUP_STEP == 0)):
        raise ModelRefused(
            f"outrider itself reads groups of a multiple of {GROUP_STEP} inputs only, not of {group!r}"
        )
    version = _version(method, settings)
    reordered = method == GPTQ and bool(settings.get("desc_act")) and group > 0
    return StoredFormat(method, bits, max(group, 0), version == GPTQ, reordered)


def _version(method: str, settings: Mapping[str, Any]) -> str:
    """The packing, which is one of those that are read."""
    admitted = (GPTQ, "gptq_v2") if method == GPTQ else ("gemm",)
    names = ("checkpoint_format", "format") if method == GPTQ else ("version", "format")
    named = (settings.get(name) for name in names)
    version = str(next((each for each in named if each is not None), admitted[0])).lower()
    if version not in admitted:
        raise ModelRefused(
            f"outrider itself reads {method} in the format {' or '.join(admitted)} only, not {version}"
        )
    if settings.get("pack_dtype", "int32") != "int32":
        raise ModelRefused("outrider itself reads numbers packed into int32 only")
    return version


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A matrix [N, K] of `scale * (number - zero)`."""

    numbers: torch.Tensor
    """[N, K] uint8."""
    zeros: torch.Tensor
    """[N, groups] uint8."""
    scales: torch.Tensor
    """[N, groups] float32."""
    group: int
    """Inputs of a group; 0 for all."""

    def dequantized(self) -> torch.Tensor:
        """[N, K] float32."""
        inputs = self.numbers.shape[1]
        zeros, scales = (
            each.float().repeat_interleave(self.group or inputs, dim=1)[:, :inputs]
            for each in (self.zeros, self.scales)
        )
        return (self.numbers.float() - zeros) * scales


class StoredLinear(nn.Module):
    """A linear layer that holds a checkpoint's own tensors, in the place of `nn.Linear`.

    Computes by itself too, the plain way: every call spreads all weights out.
    """

    qweight: torch.Tensor
    qzeros: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, stored: StoredFormat, linear: nn.Linear, scales: torch.dtype, *, has_bias: bool
    ) -> None:
        """Tensors without values, for the library to fill, of the names that checkpoints have."""
        super().__init__()
        self.stored = stored
        self.out_features = linear.out_features
        for name, shape in stored.sizes(linear.out_features, linear.in_features).items():
            dtype = scales if name == "scales" else torch.int32
            self.register_buffer(name, torch.empty(shape, dtype=dtype))
        self.register_buffer("bias", torch.empty(linear.out_features) if has_bias else None)

    def stored_weight(self) -> StoredWeight:
        """What the layer stands for."""
        return read_weight(self.stored, self.qweight, self.qzeros, self.scales)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [..., K] -> [..., N] of the same dtype."""
        form = (self.stored.method, self.stored.bits, self.stored.group, self.stored.zeros_less_one)
        tensors = (self.qweight, self.qzeros, self.scales, self.bias)
        out: torch.Tensor = stored_linear(tokens, *tensors, *form)
        return out


def multiply_stored(
    tokens: torch.Tensor,
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    method: str,
    bits: int,
    group: int,
    zeros_less_one: bool,
) -> torch.Tensor:
    """tokens [..., K] -> [..., N] of the same dtype, over a layer's tensors of a `StoredFormat`."""
    stored = StoredFormat(method, bits, group, zeros_less_one)
    weight = read_weight(stored, qweight, qzeros, scales).dequantized()
    return functional.linear(tokens, weight.to(tokens.dtype), bias)


# An operator of its own is opaque to the compiler, which would write code for every weight's bits.
stored_linear = torch.library.custom_op("outrider::stored_linear", multiply_stored, mutates_args=())


@stored_linear.register_fake
def _stored_linear_shape(
    tokens: torch.Tensor,
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    *_: object,
) -> torch.Tensor:
    return tokens.new_empty((*tokens.shape[:-1], scales.shape[1]))


def read_weight(
    stored: StoredFormat, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor
) -> StoredWeight:
    """What a layer's tensors stand for."""
    if stored.zeros_less_one:
        qzeros = qzeros + LESS_ONE[stored.bits]
    numbers, zeros = _fields(qweight, stored.bits), _fields(qzeros, stored.bits)
    if stored.method == AWQ:
        places = [AWQ_ORDER.index(place) for place in range(len(AWQ_ORDER))]
        numbers = numbers[..., places].flatten(1).T
        zeros = zeros[..., places]
    else:
        numbers = numbers.transpose(0, 1).flatten(1)
    group = stored.group if stored.group < numbers.shape[1] else 0
    return StoredWeight(
        numbers.contiguous(), zeros.flatten(1).T.contiguous(), scales.float().T.contiguous(), group
    )


def _fields(words: torch.Tensor, bits: int) -> torch.Tensor:
    """[rows, columns] int32 -> [rows, columns, 32 / bits] uint8, the lowest first."""
    parts = words.contiguous().view(torch.uint8).view(*words.shape, 4)
    if bits == 8:
        return parts
    return torch.stack((parts & 15, parts >> 4), dim=-1).flatten(-2)
