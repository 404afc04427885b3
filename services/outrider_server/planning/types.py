"""What a plan is made of: the sizes of a model, the shape of an engine, the bytes of both. Knows no torch.

Bytes are exact integers wherever the name ends in `_bytes`; only the workspace is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer whose checkpoint is quantized and read without the library."""

    file_bytes: int
    """What it has as the checkpoint keeps it, without its bias."""
    kernel_bytes: int
    """What it has on the engine's own kernels, without its bias."""


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """One tensor of weights, however many names it has."""

    name: str
    count: int
    """Its number of values."""
    outputs: int = 0
    """Rows of the matrix where bitsandbytes would quantize it; 0 elsewhere."""
    looked_up: bool = False
    """An embedding of which a step reads a few rows; False where it is the output layer too."""
    float32_in: tuple[str, ...] = ()
    """Dtypes of a model in which the library keeps this tensor in float32."""
    constant: bool = False
    """Neither of a linear layer nor an embedding: the engine's own kernels take it in float32."""
    stored: StoredLayer | None = None
    """What the checkpoint has in its place."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A matrix that tokens are multiplied by, which the engine's own kernels would pack."""

    outputs: int
    inputs: int
    has_bias: bool
    quantizable: bool
    """Whether bitsandbytes would quantize it."""
    count: int = 1
    """Of experts in one tensor, how many."""
    stored: StoredLayer | None = None


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """What one layer writes into the cache for each token: heads times values a head, of both kinds."""

    key_values: int
    value_values: int


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The sizes of a model, counted on the library's own model class."""

    name: str
    architecture: str
    dtype: str
    """The checkpoint's own dtype."""
    tensors: tuple[WeightTensor, ...]
    linears: tuple[LinearLayer, ...]
    buffer_bytes: int
    """Tables that are no parameters: rotary frequencies, masks."""
    layers: tuple[CachedLayer, ...]
    hidden: int
    intermediate: int
    vocabulary: int
    """Rows of the output layer."""
    query_groups: int
    """Query heads that share one key-value head."""
    head_dim: int
    """Of keys."""
    max_positions: int
    """0 where the configuration names no longest context."""
    target_ids: int = 0
    """Of a draft with a vocabulary of its own, its target's token ids, which draws go over; 0 for every other
    model, whose rows they are."""
    most_positions: int = 0
    """What may be asked for where it is more: a scaled rotary embedding reaches further."""
    checkpoint_bytes: int = 0
    """Size of the weight files of a checkpoint that is quantized already and that the library reads."""
    quantized_by: str = ""
    """The method of a checkpoint that is quantized already."""
    notes: tuple[str, ...] = ()

    @property
    def read_here(self) -> bool:
        """Whether the checkpoint is quantized and read without the library."""
        return any(layer.stored is not None for layer in self.linears)

    @property
    def drawn_ids(self) -> int:
        """Token ids that draws go over."""
        return self.target_ids or self.vocabulary

    @property
    def parameters(self) -> int:
        """The number of parameters, tied ones counted once."""
        return sum(tensor.count for tensor in self.tensors)


def sizes_from(kept: Any) -> ModelSizes | None:
    """The sizes that JSON holds; None where it holds something else."""
    try:
        lists = {
            "tensors": tuple(
                WeightTensor(**_with_stored({**each, "float32_in": tuple(each["float32_in"])}))
                for each in kept["tensors"]
            ),
            "linears": tuple(LinearLayer(**_with_stored(each)) for each in kept["linears"]),
            "layers": tuple(CachedLayer(**each) for each in kept["layers"]),
            "notes": tuple(kept["notes"]),
        }
        return ModelSizes(**{**kept, **lists})
    except (TypeError, KeyError):
        return None


def _with_stored(kept: dict[str, Any]) -> dict[str, Any]:
    stored = kept["stored"]
    return {**kept, "stored": None if stored is None else StoredLayer(**stored)}


@dataclass(frozen=True, slots=True)
class EngineShape:
    """The engine around the model: everything that its memory depends on."""

    dtype: str
    quantization: str
    slots: int
    rows: int
    width: int
    prefill_width: int
    context_tokens: int
    packed: bool = False
    """Whether its steps are recorded, and run on the engine's own CPU kernels."""
    gathers_slots: bool = False
    """Whether attention copies the slots of a step, as it does on other devices than a CPU."""


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """The bytes of a model's weights in one precision."""

    quantized_bytes: int
    """Values in 8 or 4 bits."""
    scale_bytes: int
    """Their scales, and the tables of 4-bit values."""
    kept_bytes: int
    """What stays in the model's dtype: all of it without quantization."""
    buffer_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return self.quantized_bytes + self.scale_bytes + self.kept_bytes + self.buffer_bytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The bytes of one engine."""

    weights: WeightBytes
    kernel_bytes: int
    """What the engine's own kernels add to the weights."""
    cache_bytes: int
    """Keys and values of all slots and the scratch slot."""
    table_bytes: int
    """Token history, sampling parameters and inputs of the slots."""
    workspace_bytes: int
    """Estimate of the most that a step needs beside all that."""

    @property
    def total_bytes(self) -> int:
        """All of them."""
        weights = self.weights.total_bytes + self.kernel_bytes
        return weights + self.cache_bytes + self.table_bytes + self.workspace_bytes


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits on a device of `memory_bytes`."""

    memory_bytes: int
    fits: bool
    largest_slots: int
    """At the asked context; 0 where not even one fits."""
    largest_context_tokens: int
    """With the asked slots, never more than the model's positions; 0 where none fits."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """The speed that memory bandwidth allows, every session at its full context."""

    weight_read_bytes: int
    cache_read_bytes: int
    """Keys and values that one session's row reads."""
    step_ms: float
    """A step of one session."""
    tokens_per_second: float
    """One session without speculation."""
    all_slots_tokens_per_second: float
    """All slots together, a token each a step."""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """A model and its engine."""

    sizes: ModelSizes
    shape: EngineShape
    memory: MemoryPlan
    weights_by_precision: dict[str, WeightBytes]
    cache_token_bytes: int
    """Keys and values of one token."""
    fit: Fit | None
    roofline: Roofline | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Target, draft, and both together."""

    target: EnginePlan
    draft: EnginePlan | None
    memory_bytes: int | None
    bandwidth: float | None
    """Bytes a second."""
    agreement: float
    beside: Fit | None
    """The target's fit with the draft on the same device."""
    break_even_ms: float | None
    """Longest round trip at which the draft pays; None where it never does or nothing is known."""
