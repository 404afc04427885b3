"""`outrider-server demo`: real services stream text, then prove and time what speculation did.

Runs three turns with speculation and the same three without, and compares their tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import outrider
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..engine.model.formats import model_name
from ..models.pair import BUNDLED, Pair
from ..start_display import new_display
from ..terminal_console import TerminalConsole
from .demo_screen import show_legend, show_reply, tokens_per_second
from .demo_turns import DemoTurn, chat_turns, code_turns
from .pair_choice import COMMAND, NO_DRAFT, Choice
from .up import Child

START = ("--listen=127.0.0.1:0", "--slots=4", "--rows=1")
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What a turn brought."""

    tokens: tuple[int, ...]
    summary: outrider.Summary


async def run_demo(choice: Choice, compile_mode: str = "auto") -> int:
    """Runs the demo; returns 0 if speculation changed no token. Raises StartupError."""
    console, pair = TerminalConsole(highlight=False), choice.pair
    console.print(escape(opening_line(choice)))
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--ledger={Path(folder) / 'ledger.db'}", f"--compile={compile_mode}"]
        options += [f"--target={pair.target}", f"--draft={pair.draft or NO_DRAFT}"]
        child = await Child.start("up", [*START, *options], scratch=Path(folder))
        display = new_display()
        try:
            address = await child.ready(display.show)
            display.close()
            async with outrider.AsyncClient(address) as client:
                return await _run_turns(console, client, pair)
        finally:
            display.close()
            await child.stop()


def opening_line(choice: Choice) -> str:
    """What is started, and why it is not the chat model."""
    if choice.pair == BUNDLED:
        why = f" ({choice.lack}; `{COMMAND}` installs it)" if choice.lack else ""
        return f"Starting the bundled pair, which continues Python source{why} ..."
    drafts = "n-grams as its draft" if choice.pair.draft is None else "its draft"
    return f"Starting {model_name(choice.pair.target)} with {drafts} ..."


async def _run_turns(console: Console, client: outrider.AsyncClient, pair: Pair) -> int:
    turns = code_turns() if pair == BUNDLED else chat_turns()
    await _warm_up(client)
    console.print()
    show_legend(console, pair.draft is not None)
    with_draft = await _play(client, turns, "auto", console)
    console.print('\nThe three turns again, with draft="off" and the same seeds: ', end="")
    without_draft = await _play(client, turns, "off", None)
    pairs = list(zip(with_draft, without_draft, strict=True))
    equal = all(fast.tokens == plain.tokens for fast, plain in pairs)
    console.print("the same tokens.\n" if equal else "OTHER TOKENS, which is a defect.\n")
    console.print(_table(turns, with_draft, without_draft))
    return 0 if equal else 1


async def _warm_up(client: outrider.AsyncClient) -> None:
    """One short turn, so that the first one shown pays for no lazy start."""
    session = await client.create_session()
    await session.generate("import os", max_new_tokens=WARM_UP_TOKENS, seed=0)
    await session.delete()


async def _play(
    client: outrider.AsyncClient,
    turns: Sequence[DemoTurn],
    draft: outrider.DraftMode,
    console: Console | None,
) -> list[TurnOutcome]:
    """Runs the turns in new sessions; shows them where a console is given."""
    sessions: dict[str, outrider.AsyncSession] = {}
    outcomes = []
    for turn in turns:
        session = sessions.get(turn.session) or await client.create_session()
        sessions[turn.session] = session
        reply = session.generate(
            turn.input,
            max_new_tokens=turn.max_new_tokens,
            temperature=turn.temperature,
            seed=turn.seed,
            draft=draft,
        )
        if console is None:
            await reply.read()
        else:
            await _show(console, turn, reply)
        outcomes.append(TurnOutcome(tuple(reply.tokens), reply.summary))
    return outcomes


async def _show(console: Console, turn: DemoTurn, reply: outrider.AsyncReply) -> None:
    console.rule(turn.title)
    prompt = f"> {turn.prompt}\n\n" if turn.is_chat else turn.prompt
    await show_reply(console, prompt, reply)


def _table(
    turns: Sequence[DemoTurn], fast: Sequence[TurnOutcome], plain: Sequence[TurnOutcome]
) -> Table:
    table = Table(title="What speculation brought", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = ("tokens", "rounds", "a round", "agreed", "first", "tok/s", "plain", "ratio")
    table.add_column("turn", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for turn, quick, slow in zip(turns, fast, plain, strict=True):
        summary = quick.summary
        speed, plain_speed = tokens_per_second(summary), tokens_per_second(slow.summary)
        table.add_row(
            turn.title,
            str(summary.tokens),
            str(summary.rounds),
            f"{summary.tokens_per_round:.2f}",
            f"{summary.agreement:.0%}",
            f"{summary.ttft_ms:.0f} ms",
            f"{speed:.0f}",
            f"{plain_speed:.0f}",
            f"{speed / plain_speed:.2f}x",
        )
    return table
