"""The options that several commands share: their values, and what they say of themselves."""

from __future__ import annotations

import enum
from importlib.metadata import version
from typing import Annotated

import typer

from ..core.types import LoopMode
from ..engine.options import Attention, Dtype, Quantization


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
Bundled = Annotated[
    bool, typer.Option("--bundled", help="Serve the bundled pair, whatever is installed.")
]
Listen = Annotated[str, typer.Option(help="HOST:PORT or unix:PATH; port 0 takes a free one.")]
DraftAttention = Annotated[Attention, typer.Option(help="The draft's attention kernel.")]
DraftQuantization = Annotated[Quantization, typer.Option(help="Quantize the draft's weights.")]
DraftDtype = Annotated[Dtype | None, typer.Option(help="The draft's dtype; the target's if unset.")]
DraftDevice = Annotated[str | None, typer.Option(help="The draft's device; the target's if unset.")]
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
