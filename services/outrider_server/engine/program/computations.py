"""What a recording comes to: computations over buffers of rows and constants, in order."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import torch

from .views import View

LOOPS = 4


class Operation(enum.IntEnum):
    """What is computed of one token alone, as `row_operations.h` numbers it."""

    COPY = 0
    NEGATE = enum.auto()
    ABSOLUTE = enum.auto()
    SQUARE_ROOT = enum.auto()
    RECIPROCAL_SQUARE_ROOT = enum.auto()
    RECIPROCAL = enum.auto()
    EXPONENTIAL = enum.auto()
    DECAY = enum.auto()
    LOGARITHM = enum.auto()
    SINE = enum.auto()
    COSINE = enum.auto()
    TANH = enum.auto()
    SIGMOID = enum.auto()
    SILU = enum.auto()
    GELU = enum.auto()
    GELU_TANH = enum.auto()
    ERF = enum.auto()
    RELU = enum.auto()
    FLOOR = enum.auto()
    NOT = enum.auto()
    ADD = enum.auto()
    SUBTRACT = enum.auto()
    MULTIPLY = enum.auto()
    DIVIDE = enum.auto()
    POWER = enum.auto()
    LARGER = enum.auto()
    SMALLER = enum.auto()
    EQUAL = enum.auto()
    LESS = enum.auto()
    AT_MOST = enum.auto()
    AND = enum.auto()
    OR = enum.auto()
    SELECT = enum.auto()
    SUM = enum.auto()
    LARGEST = enum.auto()
    TOP = enum.auto()


@dataclass(eq=False, slots=True)
class Buffer:
    """A row of `width` numbers, float32, for each token."""

    width: int


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor of a recording: a view of a buffer."""

    buffer: Buffer
    view: View

    @property
    def sizes(self) -> tuple[int, ...]:
        """With TOKENS among them."""
        return self.view.sizes


@dataclass(frozen=True, slots=True)
class Placed:
    """An operand within loops: a buffer or a constant (float32), an offset, and a stride for each loop."""

    base: Buffer | torch.Tensor
    offset: int = 0
    strides: tuple[int, ...] = (0,) * LOOPS


@dataclass(frozen=True, slots=True)
class Computed:
    """An operation on one token's numbers."""

    operation: Operation
    sizes: tuple[int, ...]
    out: Placed
    inputs: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class StoredPart:
    """Rows of a matrix as a checkpoint holds them."""

    name: str
    """The tensor's [R, C], or [E, R, C]."""
    index: int | None = None
    """Which of its matrices, where it is a stack of them."""
    turned: bool = False
    """Whether the rows are its columns."""


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix [rows, columns] where it stands in a checkpoint: parts below each other."""

    parts: tuple[StoredPart, ...]
    rows: int
    columns: int
    dtype: torch.dtype
    """To which it is converted where the checkpoint has another."""


@dataclass(frozen=True, slots=True)
class LookedUp:
    """Rows of a matrix [rows, width] by indices, so many a token, whose stride is the third loop's.

    The matrix may be the weight of a layer, which is named by its number, or a checkpoint's.
    """

    table: torch.Tensor | StoredMatrix | int
    width: int
    count: int
    out: Placed
    inputs: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Multiplied:
    """A linear layer's product with all tokens."""

    layer: int
    out: Placed
    inputs: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Remembered:
    """Keys and values, written into the slot cache. A head's stride is the third loop's."""

    attention: int
    inputs: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Attended:
    """What queries find in the slot cache."""

    attention: int
    out: Placed
    inputs: tuple[Placed, ...]


Computation = Computed | LookedUp | Multiplied | Remembered | Attended


@dataclass(frozen=True, slots=True)
class AttentionRules:
    """How a layer attends; `slopes` [heads] float32."""

    layer: int
    """In the slot cache."""
    heads: int
    key_heads: int
    head_dim: int
    scaling: float
    softcap: float = 0.0
    window: int = 0
    slopes: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """A layer's weight [N, K], and a bias that [N] takes."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer's weight [N, K] where it stands in a checkpoint, and a bias that [N] takes."""

    matrix: StoredMatrix
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class StoredIntegers:
    """A quantized layer whose integers stand in a checkpoint under a name, and a bias that [N] takes."""

    name: str
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """One of the model's quantized layers, by its index."""

    index: int


@dataclass(slots=True)
class Lowered:
    """A forward pass: what to compute in order, and where its inputs and its outcome lie."""

    ids: Buffer = field(default_factory=lambda: Buffer(1))
    positions: Buffer = field(default_factory=lambda: Buffer(1))
    lengths: Buffer = field(default_factory=lambda: Buffer(1))
    computations: list[Computation] = field(default_factory=list)
    attentions: list[AttentionRules] = field(default_factory=list)
    layers: list[LinearWeight | QuantizedLayer] = field(default_factory=list)
    logits: Buffer = field(default_factory=lambda: Buffer(0))


@dataclass(frozen=True, slots=True)
class StoredPass:
    """A forward pass over a checkpoint: one that holds no layers, and where these stand."""

    lowered: Lowered
    layers: tuple[StoredLayer | StoredIntegers, ...]
