"""The bytes of an engine: cache and tables as it allocates them, and an estimate of a step's workspace.

The cache is exact: one slot more than asked, for padding, each as long as the context and the longest row,
rounded up to whole blocks of keys; the engine's own pads heads too. The workspace is the larger of these, for
N tokens of the largest step:

    the layers      N * (4 hidden + 3 intermediate) values, and what attention needs beside them
    the decision    N * token ids * 88 bytes, for a row that is sampled, filtered, penalized and biased: the
                    most that a request can ask for; the engine's own kernels need none
    the penalties   N * token ids * 12 bytes + N * positions * 24 bytes
    spread weights  17 bytes for each of the largest layer, where a quantized checkpoint is read without the
                    library and does not run on the engine's own kernels

Recorded steps always hold their layers' values, in float32, and their logits; penalties come beside them.
A draft with a vocabulary of its own holds its logits a second time, in rows of its target's token ids.

The bytes a cell are those of the tensors alive at once in `adjusting.py` and `sampling.py` (float64 scores,
the int64 words that masses are made of), read off with torch's memory profiler.
"""

from __future__ import annotations

from math import prod

from ..engine.attention.attention_kernels import KEY_BLOCK
from ..engine.packed_cache import PackedShape
from ..engine.program.assembling import LINE
from .types import DTYPE_BYTES, EngineShape, MemoryPlan, ModelSizes
from .weights import packing_bytes, weight_bytes

DECISION_BYTES = 88
PENALTY_BYTES = 12
LOGIT_BYTES = 4
"""Of these, the logits that a step made."""
HISTORY_BYTES = 24
SPREAD_BYTES = 17
"""A weight that is multiplied the plain way: its number, then number, zero, scale and product in float32."""
MASK_BYTES = 7
"""A cell of attention's mask: as truth values, in the model's dtype, and in float32."""
DRAW_BYTES = 3 * 8 + 3 * 8 + 3 * 4
"""A slot's sampling parameters: three of float64, three of int64, three of float32."""


def plan_memory(sizes: ModelSizes, shape: EngineShape) -> MemoryPlan:
    """The bytes of an engine of this shape over the model."""
    return MemoryPlan(
        weights=weight_bytes(sizes, shape.dtype, shape.quantization),
        kernel_bytes=_kernel_bytes(sizes, shape),
        cache_bytes=cache_bytes(sizes, shape),
        table_bytes=_table_bytes(sizes, shape),
        workspace_bytes=workspace_bytes(sizes, shape),
    )


def _kernel_bytes(sizes: ModelSizes, shape: EngineShape) -> int:
    return packing_bytes(sizes, shape.dtype, shape.quantization) if shape.packed else 0


def slot_positions(shape: EngineShape) -> int:
    """Positions of one slot: the context and room for the longest row, in whole blocks of keys."""
    headroom = max(shape.width, shape.prefill_width)
    return -(-(shape.context_tokens + headroom) // KEY_BLOCK) * KEY_BLOCK


def token_bytes(sizes: ModelSizes, dtype: str) -> int:
    """Keys and values of one token, over all layers."""
    values = sum(layer.key_values + layer.value_values for layer in sizes.layers)
    return values * DTYPE_BYTES[dtype]


def cache_bytes(sizes: ModelSizes, shape: EngineShape) -> int:
    """Keys and values of all slots and the scratch slot."""
    slots, positions = shape.slots + 1, slot_positions(shape)
    if not shape.packed:
        return slots * positions * token_bytes(sizes, shape.dtype)
    values = 0
    for layer in sizes.layers:
        heads = layer.key_values // sizes.head_dim
        packed = PackedShape(slots, heads, positions, sizes.head_dim)
        values += prod(packed.key_sizes) + prod(packed.value_sizes)
    return values * DTYPE_BYTES[shape.dtype]


def workspace_bytes(sizes: ModelSizes, shape: EngineShape) -> int:
    """The most that a verify step or a prefill step holds beside weights, cache and tables."""
    tokens = shape.rows * shape.width
    cells = tokens * sizes.drawn_ids
    penalties = cells * PENALTY_BYTES + tokens * slot_positions(shape) * HISTORY_BYTES
    if shape.packed:
        in_arena = 0 if sizes.target_ids else cells * LOGIT_BYTES
        return arena_bytes(sizes, shape) + penalties - in_arena
    stored = (layer.outputs * layer.inputs for layer in sizes.linears if layer.stored)
    spread = SPREAD_BYTES * max(stored, default=0)
    return max(
        cells * DECISION_BYTES,
        penalties,
        spread,
        _layers_bytes(sizes, shape, shape.rows, shape.width),
        _layers_bytes(sizes, shape, 1, shape.prefill_width),
    )


def arena_bytes(sizes: ModelSizes, shape: EngineShape) -> int:
    """What recorded steps hold for every token of the largest: the layers' values and the logits, float32."""
    tokens = max(shape.rows * shape.width, shape.prefill_width)
    return LOGIT_BYTES * tokens * (_layer_values(sizes, LINE) + 4 * LINE + sizes.vocabulary)


def _layer_values(sizes: ModelSizes, step: int = 1) -> int:
    """Estimate of what a token needs at once of the layers' values, in rows of multiples of `step`."""
    queries = max((sizes.query_groups * layer.key_values for layer in sizes.layers), default=0)
    hidden, intermediate = max(sizes.hidden, queries), sizes.intermediate
    return step * (4 * -(-hidden // step) + 3 * -(-intermediate // step))


def _layers_bytes(sizes: ModelSizes, shape: EngineShape, rows: int, width: int) -> int:
    """What the layers hold at once while they read `rows` rows of `width` tokens."""
    element = DTYPE_BYTES[shape.dtype]
    return rows * width * _layer_values(sizes) * element + _attention_bytes(
        sizes, shape, rows, width
    )


def _attention_bytes(sizes: ModelSizes, shape: EngineShape, rows: int, width: int) -> int:
    """Masks of one row, or of all and a copy of their slots."""
    positions = slot_positions(shape)
    masks = width * positions * (1 + MASK_BYTES * sizes.query_groups)
    if not shape.gathers_slots:
        return masks
    largest = max((layer.key_values + layer.value_values for layer in sizes.layers), default=0)
    return rows * (masks + positions * largest * DTYPE_BYTES[shape.dtype])


def _table_bytes(sizes: ModelSizes, shape: EngineShape) -> int:
    """Token history of every slot, sampling parameters, the static inputs of the largest steps, and a draft's
    own ids by those of its target and back."""
    history = (shape.slots + 1) * slot_positions(shape) * 8
    inputs = 4 * 8 * (shape.rows * shape.width + shape.prefill_width)
    ids = 8 * (sizes.target_ids + 2 * sizes.vocabulary) if sizes.target_ids else 0
    return history + (shape.slots + 1) * DRAW_BYTES + inputs + ids
