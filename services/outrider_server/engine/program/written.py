"""A forward pass over a checkpoint as JSON, and back.

Matrices are named by where they stand in the checkpoint; small constants are there by value, as a safetensors
file in base 64.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load, save

from ..gguf.integers import GgufLinear
from .computations import (
    Attended,
    AttentionRules,
    Buffer,
    Computation,
    Computed,
    LinearWeight,
    LookedUp,
    Lowered,
    Multiplied,
    Operation,
    Placed,
    QuantizedLayer,
    Remembered,
    StoredIntegers,
    StoredLayer,
    StoredMatrix,
    StoredPart,
    StoredPass,
)
from .finding import Finder, NotStored

MOST_BYTES = 64 << 20
"""Of all constants: a pass with more is not written."""
Written = dict[str, Any]


def written_pass(lowered: Lowered, finder: Finder, quantized: Sequence[Any] = ()) -> Written | None:
    """A forward pass, of which the JSON keeps nothing in memory; None where its weights are not all there.

    `quantized` are the model's quantized layers.
    """
    try:
        return _Writing(finder, quantized).all_of(lowered)
    except NotStored:
        return None


def read_pass(written: Written) -> StoredPass:
    """The pass that was written. Raises what looking at other JSON raises."""
    return _Reading(written).all_of(written)


class _Writing:
    """What buffers and constants have for numbers."""

    def __init__(self, finder: Finder, quantized: Sequence[Any]) -> None:
        self._finder = finder
        self._quantized = quantized
        self._buffers: dict[Buffer, int] = {}
        self._constants: dict[tuple[torch.dtype, bytes], int] = {}
        self._tensors: list[torch.Tensor] = []
        self._room = MOST_BYTES

    def all_of(self, lowered: Lowered) -> Written:
        """Raises NotStored for a weight that does not stand in the checkpoint."""
        given = [lowered.ids, lowered.positions, lowered.lengths, lowered.logits]
        written = {
            "given": [self._buffer(buffer) for buffer in given],
            "layers": [self._layer(layer) for layer in lowered.layers],
            "attentions": [self._attention(rules) for rules in lowered.attentions],
            "computations": [self._computation(one) for one in lowered.computations],
        }
        named = {str(number): tensor for number, tensor in enumerate(self._tensors)}
        return {
            **written,
            "buffers": [buffer.width for buffer in self._buffers],
            "constants": base64.b64encode(save(named)).decode(),
        }

    def _layer(self, layer: object) -> Any:
        if isinstance(layer, QuantizedLayer):
            held = self._quantized[layer.index]
            if not isinstance(held, GgufLinear):
                raise NotStored
            return [held.tensor, self._tensor(held.bias)]
        assert isinstance(layer, LinearWeight), "a layer is plain or quantized"
        return [self._matrix(layer.weight), self._tensor(layer.bias)]

    def _matrix(self, matrix: torch.Tensor) -> Any:
        found = self._finder.find(matrix)
        parts = [[part.name, part.index, part.turned] for part in found.parts]
        return [parts, found.rows, found.columns, _name(found.dtype)]

    def _attention(self, rules: AttentionRules) -> Any:
        numbers = (rules.layer, rules.heads, rules.key_heads, rules.head_dim)
        more = (rules.scaling, rules.softcap, rules.window)
        return [*numbers, *more, self._tensor(rules.slopes)]

    def _computation(self, one: Computation) -> Any:
        inputs = [self._placed(each) for each in one.inputs]
        match one:
            case Computed(operation, sizes, out):
                return ["row", int(operation), sizes, self._placed(out), inputs]
            case LookedUp(table, width, count, out):
                return ["lookup", self._table(table), width, count, self._placed(out), inputs]
            case Multiplied(layer, out):
                return ["product", layer, self._placed(out), inputs]
            case Remembered(attention):
                return ["remember", attention, inputs]
            case Attended(attention, out):
                return ["attend", attention, self._placed(out), inputs]

    def _table(self, table: torch.Tensor | StoredMatrix | int) -> Any:
        if isinstance(table, int):
            return table
        assert isinstance(table, torch.Tensor), "a recording holds tensors"
        try:
            return {"matrix": self._matrix(table)}
        except NotStored:
            return {"values": self._tensor(table)}

    def _placed(self, placed: Placed) -> list[int]:
        """Constants count from -1 down, buffers from 0 up."""
        if isinstance(placed.base, Buffer):
            return [self._buffer(placed.base), placed.offset, *placed.strides]
        return [-1 - self._constant(_memory(placed.base)), placed.offset, *placed.strides]

    def _buffer(self, buffer: Buffer) -> int:
        return self._buffers.setdefault(buffer, len(self._buffers))

    def _tensor(self, tensor: torch.Tensor | None) -> Any:
        if tensor is None:
            return None
        return [self._constant(tensor.detach().contiguous().flatten()), list(tensor.shape)]

    def _constant(self, flat: torch.Tensor) -> int:
        if flat.nbytes > self._room:
            raise NotStored
        key = flat.dtype, flat.view(torch.uint8).numpy().tobytes()
        if key not in self._constants:
            self._constants[key] = len(self._tensors)
            self._tensors.append(flat.clone())
            self._room -= flat.nbytes
        return self._constants[key]


class _Reading:
    """Buffers and constants by their numbers."""

    def __init__(self, written: Written) -> None:
        self._buffers = [Buffer(int(width)) for width in written["buffers"]]
        held = load(base64.b64decode(written["constants"], validate=True))
        # Where the kernels read them they begin with a cache line.
        self._constants = [held[str(number)].clone() for number in range(len(held))]

    def all_of(self, written: Written) -> StoredPass:
        ids, positions, lengths, logits = (self._buffers[number] for number in written["given"])
        lowered = Lowered(ids, positions, lengths, logits=logits)
        lowered.computations += [self._computation(*each) for each in written["computations"]]
        lowered.attentions += [self._attention(*each) for each in written["attentions"]]
        return StoredPass(lowered, tuple(self._layer(*each) for each in written["layers"]))

    def _layer(self, where: Any, bias: Any) -> StoredLayer | StoredIntegers:
        if isinstance(where, str):
            return StoredIntegers(where, self._tensor(bias))
        return StoredLayer(_read_matrix(*where), self._tensor(bias))

    def _attention(self, *values: Any) -> AttentionRules:
        *plain, slopes = values
        return replace(AttentionRules(*plain), slopes=self._tensor(slopes))

    def _computation(self, kind: str, what: Any, *rest: Any) -> Computation:
        *plain, inputs = rest
        placed = tuple(self._placed(*each) for each in inputs)
        if kind == "remember":
            return Remembered(what, placed)
        out = self._placed(*plain.pop())
        match kind:
            case "row":
                return Computed(Operation(what), tuple(plain[0]), out, placed)
            case "lookup":
                return LookedUp(self._table(what), plain[0], plain[1], out, placed)
            case "product":
                return Multiplied(what, out, placed)
            case "attend":
                return Attended(what, out, placed)
        raise ValueError(f"there is no computation {kind}")

    def _table(self, table: Any) -> torch.Tensor | StoredMatrix | int:
        if isinstance(table, int):
            return table
        if "matrix" in table:
            return _read_matrix(*table["matrix"])
        values = self._tensor(table["values"])
        assert values is not None, "a table has values"
        return values

    def _placed(self, base: int, offset: int, *strides: int) -> Placed:
        held = self._buffers[base] if base >= 0 else self._constants[-1 - base]
        return Placed(held, offset, strides)

    def _tensor(self, written: Any) -> torch.Tensor | None:
        if written is None:
            return None
        number, sizes = written
        shaped: torch.Tensor = self._constants[number].view(sizes)
        return shaped


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    """All numbers from a tensor's first to its last in memory, in order."""
    strided = zip(tensor.shape, tensor.stride(), strict=True)
    span = 1 + sum((size - 1) * stride for size, stride in strided)
    return tensor.detach().as_strided((span,), (1,))


def _read_matrix(parts: Sequence[Any], rows: int, columns: int, dtype: str) -> StoredMatrix:
    named = tuple(StoredPart(*part) for part in parts)
    return StoredMatrix(named, rows, columns, dtype_named(dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """Torch's dtype of that name. Raises ValueError."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is no dtype")
    return dtype
