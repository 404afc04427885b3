"""Writes GPTQ and AWQ checkpoints, number by number as the formats are defined, for tests to read.

A weight is `scale * (number - zero)`. GPTQ packs numbers of following inputs into a word of 32 bits, AWQ
those of eight outputs in an order of its own; both pack zeros of outputs, GPTQ's first format less one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from models_for_tests import edit_json
from safetensors.torch import load_file, save_file

AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
WORD = 1 << 32


@dataclass(frozen=True)
class Writer:
    """A format, and how it is to be used."""

    method: str
    bits: int
    group: int
    symmetric: bool = False
    version: str = ""

    def __str__(self) -> str:
        words = (self.method, self.bits, self.group, self.symmetric and "symmetric", self.version)
        return "-".join(str(word) for word in words if word)

    @property
    def settings(self) -> dict[str, object]:
        """The checkpoint's `quantization_config`."""
        common = {"quant_method": self.method, "bits": self.bits, "group_size": self.group}
        if self.method == "awq":
            return common | {"version": "gemm", "zero_point": not self.symmetric}
        named = {"checkpoint_format": self.version} if self.version else {}
        return common | named | {"sym": self.symmetric, "desc_act": False, "damp_percent": 0.1}

    def write(self, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """A layer's tensors for a matrix [N, K], and what they stand for: [N, K] float64."""
        inputs = weight.shape[1]
        each = self.group if self.group > 0 else inputs
        of_input = torch.arange(inputs) // each
        scales, zeros = [], []
        for part in weight.double().split(each, dim=1):
            scale, zero = self._fit(part)
            scales.append(scale)
            zeros.append(zero)
        scale = torch.stack(scales).half()
        zero = torch.stack(zeros)
        wide_scale, wide_zero = scale.double()[of_input].T, zero[of_input].T
        numbers = (weight.double() / wide_scale).round() + wide_zero
        numbers = numbers.clamp(0, 2**self.bits - 1).long()
        tensors = {"qzeros": self._pack_outputs(zero.long()), "scales": scale}
        if self.method == "awq":
            tensors["qweight"] = self._pack_outputs(numbers.T)
        else:
            tensors["qweight"] = self._pack(numbers).T.contiguous()
            tensors["g_idx"] = of_input.to(torch.int32)
            if self.version != "gptq_v2":
                ones = sum(1 << place for place in range(0, 32, self.bits))
                tensors["qzeros"] = as_words((tensors["qzeros"].long() - ones) % WORD)
        return tensors, (numbers - wide_zero) * wide_scale

    def _fit(self, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, inputs] -> scale and zero of each output."""
        most = 2**self.bits - 1
        if self.symmetric:
            scale = 2 * part.abs().amax(dim=1) / most
            return scale, torch.full_like(scale, (most + 1) // 2)
        low, high = part.amin(dim=1).clamp(max=0), part.amax(dim=1).clamp(min=0)
        scale = (high - low) / most
        return scale, (-low / scale).round()

    def _pack_outputs(self, numbers: torch.Tensor) -> torch.Tensor:
        """[rows, N] -> words [rows, N * bits / 32]."""
        if self.method == "awq":
            eights = numbers.view(len(numbers), -1, 8)[:, :, list(AWQ_PLACES)]
            numbers = eights.reshape(numbers.shape)
        return self._pack(numbers)

    def _pack(self, numbers: torch.Tensor) -> torch.Tensor:
        """[rows, numbers] -> words [rows, numbers * bits / 32], the first one lowest."""
        fields = 32 // self.bits
        parts = numbers.reshape(len(numbers), -1, fields)
        return as_words(sum(parts[:, :, place] << place * self.bits for place in range(fields)))


def as_words(values: torch.Tensor) -> torch.Tensor:
    """Numbers below 2^32 as int32 of the same bits."""
    return torch.where(values < WORD // 2, values, values - WORD).to(torch.int32)


def save_stored(plain: Path, folder: Path, writer: Writer) -> dict[str, torch.Tensor]:
    """A copy of a model's folder with its layers quantized; returns what each weight stands for, float64."""
    shutil.copytree(plain, folder)
    tensors = load_file(folder / "model.safetensors")
    meant = {}
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        written, meant[name] = writer.write(tensors.pop(name))
        tensors |= {f"{name.removesuffix('weight')}{part}": each for part, each in written.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    edit_json(folder / "config.json", quantization_config=writer.settings)
    return meant


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces tensors of the first query projection, or drops them."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        full = f"model.layers.0.self_attn.q_proj.{name}"
        tensors.pop(full, None)
        if tensor is not None:
            tensors[full] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
