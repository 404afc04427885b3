"""The command `outrider-server distill`: options in, settings out. Imports the rest only when it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ..core.errors import StartupError
from ..distilling.settings import (
    NO_LAYERS,
    NO_TEMPERATURES,
    OBJECTIVES,
    UNTIL,
    DistillSettings,
)
from ..engine.options import EngineOptions
from ..models import TARGET_FOLDER
from .engine_options import takes_engine

ENGINE = EngineOptions(folder=TARGET_FOLDER, slots=32, park_bytes=0)

T = TypeVar("T")
NOT_ASKED = (
    *("folder", "attention", "park_bytes", "queue", "rows", "width", "prefill_width"),
    *("reproducible", "tensor_parallel", "quantization"),
)

Target = Annotated[
    Path, typer.Argument(help="Folder of the target, its GGUF file, or its name on a hub.")
]
Output = Annotated[Path, typer.Argument(help="Folder of the draft, new or of a run to go on with.")]
Prompts = Annotated[
    list[Path] | None,
    typer.Option(
        help="JSON lines with prompt, messages or turns; without, the target makes its prompts itself."
    ),
]
Replies = Annotated[
    list[Path] | None, typer.Option(help="JSON lines of replies that the target wrote before.")
]
Tokens = Annotated[
    int | None, typer.Option(help="Reply tokens to learn from, those given included.")
]
Hours = Annotated[
    float | None, typer.Option(help="Time for all of it, in place of a number of tokens.")
]
Temperatures = Annotated[str, typer.Option(help="Temperatures of the replies, with commas.")]
ReplyTokens = Annotated[int, typer.Option(help="Longest reply in tokens.")]
Layers = Annotated[
    str | None,
    typer.Option(help="The target's layers that it begins with; first and last by default."),
]
Vocabulary = Annotated[
    int | None,
    typer.Option(help="Rows of its embedding; by default 16384, or the target's if fewer."),
]
ObjectiveName = Annotated[str, typer.Option(help=f"What it learns: {', '.join(OBJECTIVES)}.")]
Passes = Annotated[float, typer.Option(help="So often each reply is learnt from, with --tokens.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
Until = Annotated[str, typer.Option(help=f"The last stage to run: {', '.join(UNTIL)}.")]


@takes_engine(
    ENGINE,
    without=NOT_ASKED,
    helps={
        "slots": "Replies that are written at once.",
        "max_context_tokens": "Longest conversation in tokens; 0 takes the target's, at most 2048.",
    },
)
def distill(
    target: Target,
    output: Output,
    engine: EngineOptions,
    prompts: Prompts = None,
    replies: Replies = None,
    tokens: Tokens = None,
    hours: Hours = None,
    temperatures: Temperatures = "0,0.7,1.0",
    reply_tokens: ReplyTokens = 512,
    layers: Layers = None,
    vocabulary: Vocabulary = None,
    objective: ObjectiveName = OBJECTIVES[0],
    passes: Passes = 4.0,
    seed: Seed = 0,
    until: Until = UNTIL[-1],
) -> None:
    """Make a draft for a target from what the target itself writes."""
    settings = DistillSettings(
        engine=replace(engine, folder=target),
        output=output,
        prompts=tuple(prompts or ()),
        replies=tuple(replies or ()),
        tokens=tokens,
        hours=hours,
        temperatures=_numbers(temperatures, float, NO_TEMPERATURES),
        reply_tokens=reply_tokens,
        layers=None if layers is None else tuple(_numbers(layers, int, NO_LAYERS)),
        vocabulary=vocabulary,
        objective=objective,
        passes=passes,
        seed=seed,
        until=until,
    )
    from ..core.progress import silent
    from ..distilling.display import shown
    from ..distilling.run import run_distill
    from ..engine.model.hub import check_named
    from .engines import kept_start

    check_named(target)
    with shown() as display:
        run_distill(settings, kept_start(silent), display)


def _numbers(text: str, read: Callable[[str], T], refusal: str) -> tuple[T, ...]:
    """The numbers of a list with commas. Raises StartupError with the refusal."""
    try:
        return tuple(map(read, text.split(",")))
    except ValueError as error:
        raise StartupError(refusal) from error
