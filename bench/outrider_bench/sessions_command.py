"""The commands `outrider-server bench sessions`: options in, settings out. Imports the rest as one runs."""

from __future__ import annotations

from typing import Annotated

import typer
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER

from .ending import end
from .options import (
    Compile,
    Draft,
    DraftMode,
    ParkMemory,
    PromptTokens,
    ReplyTokens,
    Seed,
    Slots,
    Talks,
    Target,
    Threads,
    Widen,
)

LENGTHS = (128, 512, 2048)
LOADS = (1.0, 1.5, 2.0, 3.0)

sessions = typer.Typer(
    help="Measure sessions: more than slots, more than can run, more than are used.",
    no_args_is_help=True,
)


@sessions.command()
def crowd(
    target: Target = TARGET_FOLDER,
    draft_model: Draft = DRAFT_FOLDER,
    widen: Widen = 0.0,
    sessions: Annotated[int, typer.Option(help="Sessions, more than slots.")] = 200,
    slots: Slots = 3,
    at_once: Annotated[int, typer.Option(help="Turns at once, at most the slots.")] = 3,
    turns: Annotated[int, typer.Option(help="Turns of each session.")] = 3,
    talks: Talks = 20,
    first_tokens: Annotated[int, typer.Option(help="Tokens of a session's first input.")] = 400,
    later_tokens: Annotated[int, typer.Option(help="Tokens of each later input.")] = 16,
    reply_tokens: ReplyTokens = 24,
    park_memory: ParkMemory = "2GiB",
    draft: DraftMode = "auto",
    seed: Seed = 1,
) -> None:
    """More sessions than slots take turns."""
    from .crowd import CrowdSettings
    from .sessions import measure_sessions

    settings = CrowdSettings(
        sessions=sessions,
        slots=slots,
        at_once=at_once,
        turns=turns,
        talks=talks,
        first_tokens=first_tokens,
        later_tokens=later_tokens,
        reply_tokens=reply_tokens,
        park_memory=park_memory,
        draft=draft,
        seed=seed,
    )
    end(lambda: measure_sessions(settings, target, draft_model, widen))


@sessions.command()
def parking(
    target: Target = TARGET_FOLDER,
    widen: Widen = 0.0,
    lengths: Annotated[
        list[int] | None,
        typer.Option(help="Tokens of a session; may be repeated; 128, 512 and 2048 by default."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Of each length; medians are shown.")] = 9,
    compile: Compile = "auto",
    threads: Threads = 0,
) -> None:
    """Park and restore beside reading again, without services."""
    from .parking import ParkingSettings
    from .sessions import measure_parking

    settings = ParkingSettings(
        lengths=tuple(lengths or LENGTHS),
        repeats=repeats,
        compile=compile,
        threads=threads,
    )
    end(lambda: measure_parking(settings, target, widen))


@sessions.command()
def overload(
    target: Target = TARGET_FOLDER,
    draft_model: Draft = DRAFT_FOLDER,
    widen: Widen = 0.0,
    slots: Slots = 8,
    queue: Annotated[int, typer.Option(help="Turns that may wait at the target.")] = 16,
    repeats: Annotated[int, typer.Option(help="Of all loads.")] = 3,
    seconds: Annotated[float, typer.Option(help="How long each load lasts.")] = 20.0,
    ramp_seconds: Annotated[float, typer.Option(help="Of its beginning that do not count.")] = 5.0,
    loads: Annotated[
        list[float] | None,
        typer.Option(
            help="Arrivals, in multiples of the peak's; may be repeated; 1, 1.5, 2 and 3 by default."
        ),
    ] = None,
    prompt_tokens: PromptTokens = 48,
    reply_tokens: ReplyTokens = 64,
    draft: DraftMode = "auto",
    seed: Seed = 1,
) -> None:
    """More turns arrive than can be run."""
    from .clients import OverloadSettings
    from .sessions import measure_sessions

    settings = OverloadSettings(
        slots=slots,
        queue=queue,
        repeats=repeats,
        seconds=seconds,
        ramp_seconds=ramp_seconds,
        loads=tuple(loads or LOADS),
        prompt_tokens=prompt_tokens,
        reply_tokens=reply_tokens,
        draft=draft,
        seed=seed,
    )
    end(lambda: measure_sessions(settings, target, draft_model, widen))


@sessions.command()
def idle(
    target: Target = TARGET_FOLDER,
    draft_model: Draft = DRAFT_FOLDER,
    widen: Widen = 0.0,
    sessions: Annotated[int, typer.Option(help="Sessions in all.")] = 10_000,
    with_turn: Annotated[int, typer.Option(help="Of them with a turn before they idle.")] = 1_000,
    asked: Annotated[int, typer.Option(help="Of them whose next turn is tried.")] = 50,
    talks: Talks = 16,
    prompt_tokens: PromptTokens = 32,
    reply_tokens: ReplyTokens = 8,
    park_memory: ParkMemory = "1GiB",
    draft: DraftMode = "auto",
    seed: Seed = 1,
) -> None:
    """Thousands of sessions that nobody uses."""
    from .idle import IdleSettings
    from .sessions import measure_sessions

    settings = IdleSettings(
        sessions=sessions,
        with_turn=with_turn,
        asked=asked,
        talks=talks,
        prompt_tokens=prompt_tokens,
        reply_tokens=reply_tokens,
        park_memory=park_memory,
        draft=draft,
        seed=seed,
    )
    end(lambda: measure_sessions(settings, target, draft_model, widen))
