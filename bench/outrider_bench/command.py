"""The command `outrider-server bench`: options in, settings out. Imports the rest only when it runs."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER

from .settings import SUITES, BenchSettings


def bench(
    suites: Annotated[
        list[str] | None, typer.Argument(help=f"Any of {', '.join(SUITES)}; all by default.")
    ] = None,
    target: Annotated[Path, typer.Option(help="Folder of the target model.")] = TARGET_FOLDER,
    draft: Annotated[Path, typer.Option(help="Folder of the draft model.")] = DRAFT_FOLDER,
    widen: Annotated[
        float, typer.Option(help="Make the target cost what so many million weights cost; 0: not.")
    ] = 0.0,
    tokens: Annotated[int, typer.Option(help="Tokens of each measured turn.")] = 256,
    prompts: Annotated[int, typer.Option(help="Prompts for each temperature.")] = 5,
    repeats: Annotated[int, typer.Option(help="Repeats of what is no turn per prompt.")] = 5,
    temperature: Annotated[
        list[float] | None, typer.Option(help="May be repeated; 0.7 and 0 by default.")
    ] = None,
    llama_cpp: Annotated[
        Path | None, typer.Option(help="Folder with llama.cpp's binaries, to compare with.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for results.json and charts.")] = Path(
        "outrider-bench"
    ),
    peers: Annotated[bool, typer.Option(help="Compare with other software.")] = True,
) -> None:
    """Measure Outrider on this machine, beside other software, on prompts that never repeat."""
    settings = BenchSettings(
        suites=tuple(suites or SUITES),
        target=target,
        draft=draft,
        widen=widen,
        tokens=tokens,
        prompts=prompts,
        repeats=repeats,
        temperatures=tuple(temperature or (0.7, 0.0)),
        llama_cpp=llama_cpp,
        output=output,
        peers=peers,
    )
    from .run import run_bench

    # Unlike a service it ends what is not bound to it: other software's servers.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(asyncio.run(run_bench(settings)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
