"""The options that several commands share: their values, and what they say of themselves."""

from __future__ import annotations

import enum
from importlib.metadata import version
from typing import Annotated

import typer

from ..core.types import LoopMode
from ..planning.units import parse_bytes


class Compile(enum.StrEnum):
    """Whether steps are compiled."""

    AUTO = "auto"
    ON = "on"
    MAX = "max"
    OFF = "off"


class Dtype(enum.StrEnum):
    """Element type of weights and cache."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Quantization(enum.StrEnum):
    """How weights are quantized while they are loaded."""

    NONE = "none"
    INT8 = "int8"
    NF4 = "nf4"
    FP4 = "fp4"


class Attention(enum.StrEnum):
    """The kernel of attention over the slot cache."""

    AUTO = "auto"
    PACKED = "packed"
    SDPA = "sdpa"
    FLASH = "flash"
    MATH = "math"
    EFFICIENT = "efficient"
    EAGER = "eager"
    FLEX = "flex"


class GenerationDefaults(enum.StrEnum):
    """What a request gets for the sampling parameters that it does not name."""

    NEUTRAL = "neutral"
    MODEL = "model"


class Loop(enum.StrEnum):
    """How the loop paces draft and target."""

    ADAPTIVE = "adaptive"
    RUN_AHEAD = "run-ahead"
    SYNCHRONOUS = "synchronous"

    def mode(self) -> LoopMode:
        """The loop's own name for it."""
        return LoopMode(self.value.replace("-", "_"))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"outrider-server {version('outrider')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
]
Listen = Annotated[str, typer.Option(help="HOST:PORT or unix:PATH; port 0 takes a free one.")]
DtypeOption = Annotated[Dtype, typer.Option(help="auto keeps the checkpoint's own.")]
Device = Annotated[str, typer.Option(help="A torch device, for example cpu or cuda:0.")]
QuantizationOption = Annotated[
    Quantization, typer.Option(help="Quantize the weights; none keeps what the checkpoint holds.")
]
AttentionOption = Annotated[
    Attention, typer.Option(help="Attention kernel; auto takes the fastest that this machine has.")
]
DraftAttention = Annotated[Attention, typer.Option(help="The same for the draft.")]
DraftQuantization = Annotated[Quantization, typer.Option(help="The same for the draft.")]
DraftDtype = Annotated[Dtype | None, typer.Option(help="The draft's dtype; the target's if unset.")]
DraftDevice = Annotated[str | None, typer.Option(help="The draft's device; the target's if unset.")]
ParkMemory = Annotated[
    str, typer.Option(help="Host memory for sessions without a slot, for example 4GiB; 0 for none.")
]
Queue = Annotated[int, typer.Option(help="Turns that may wait for a slot; more are refused.")]
Slots = Annotated[int, typer.Option(help="Sessions whose KV state is kept.")]
Rows = Annotated[int, typer.Option(help="A step holds so many full rows; 0 takes the slots.")]
Context = Annotated[int, typer.Option(help="Longest session in tokens; 0 takes the model's.")]
CompileOption = Annotated[
    Compile, typer.Option(help="auto compiles where it pays; max compiles longer for faster steps.")
]
Reproducible = Annotated[bool, typer.Option(help="Use one shape of step only.")]
Threads = Annotated[int, typer.Option(help="CPU threads of the model; 0 takes every core.")]
Ranks = Annotated[
    int, typer.Option("--tensor-parallel", help="Processes that share the model, each on a device.")
]
Width = Annotated[int, typer.Option(help="Tokens a row of a verify step; a multiple of 8.")]
PrefillWidth = Annotated[int, typer.Option(help="Tokens a prefill step; a multiple of 8.")]
Ledger = Annotated[
    str | None, typer.Option(help="The ledger: a file's path, or postgresql://USER@HOST/DATABASE.")
]
TtlSeconds = Annotated[
    int, typer.Option(help="Delete sessions so long after their last write; 0 keeps them.")
]
SweepSeconds = Annotated[float, typer.Option(help="How often expired sessions are deleted.")]
LeaseSeconds = Annotated[
    float, typer.Option(help="How long a dead service's turn blocks its session; PostgreSQL only.")
]
Window = Annotated[int, typer.Option(help="The most tokens proposed in one round.")]
Lead = Annotated[int, typer.Option(help="How far the draft may run ahead, for the loop run-ahead.")]
LoopOption = Annotated[Loop, typer.Option(help="How to pace draft and target.")]


GenerationDefaultsOption = Annotated[
    GenerationDefaults,
    typer.Option(help="model: requests that name no sampling follow its generation_config.json."),
]


def park_bytes(text: str) -> int:
    """Bytes of `--park-memory`. Raises StartupError."""
    return 0 if text == "0" else parse_bytes(text, "park memory")
