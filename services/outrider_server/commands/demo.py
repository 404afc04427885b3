"""`outrider-server demo`: three real services stream text, then prove and time what speculation did.

Runs three turns with speculation and the same three without, and compares their tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import outrider
from outrider.cli.render import MARKS, TokenRenderer, write_legend
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..models import held_out_prompts
from ..start_display import new_display
from .up import Child

START = ("--listen=127.0.0.1:0", "--slots=4", "--rows=1")
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """One turn of the demo. Turns of the same session follow each other."""

    title: str
    session: str
    prompt: str
    temperature: float
    seed: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What a turn brought."""

    tokens: tuple[int, ...]
    summary: outrider.Summary


def demo_turns() -> list[DemoTurn]:
    """Two greedy turns of one session and one sampled turn, on text that the models never saw."""
    prompts = held_out_prompts()
    return [
        DemoTurn("greedy, turn 1", "a", prompts[0], 0.0, 1, 128),
        DemoTurn("greedy, turn 2", "a", "\n\n\nclass Test", 0.0, 2, 128),
        DemoTurn("sampled at 0.7", "b", prompts[1], 0.7, 7, 128),
    ]


async def run_demo(compile_mode: str = "auto") -> int:
    """Runs the demo; returns 0 if speculation changed no token. Raises StartupError."""
    console = Console(highlight=False)
    console.print("Starting draft, target and session service ...")
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--ledger={Path(folder) / 'ledger.db'}", f"--compile={compile_mode}"]
        child = await Child.start("up", [*START, *options], scratch=Path(folder))
        display = new_display()
        try:
            address = await child.ready(display.show)
            display.close()
            async with outrider.AsyncClient(address) as client:
                return await _run_turns(console, client)
        finally:
            display.close()
            await child.stop()


async def _run_turns(console: Console, client: outrider.AsyncClient) -> int:
    turns = demo_turns()
    await _warm_up(client)
    console.print()
    if console.is_terminal:
        write_legend(console)
    else:
        marked = {source.value: "".join(marks) for source, marks in MARKS.items() if marks[0]}
        console.print(
            escape(f"marks: {marked['draft']} draft, {marked['ngram']} n-gram, rest target")
        )
    with_draft = await _play(client, turns, "auto", console)
    without_draft = await _play(client, turns, "off", None)
    pairs = list(zip(with_draft, without_draft, strict=True))
    equal = all(fast.tokens == plain.tokens for fast, plain in pairs)
    verdict = "the same tokens" if equal else "OTHER TOKENS, which is a defect"
    console.print(f'\nThe three turns again, with draft="off" and the same seeds: {verdict}.\n')
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
            turn.prompt,
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
    console.print(f"[dim]{escape(turn.prompt)}[/dim]", end="", soft_wrap=True)
    renderer = TokenRenderer(console, marks=not console.is_terminal)
    async for event in reply:
        renderer.write(event)
    renderer.finish()


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
        speed, plain_speed = _tokens_per_second(summary), _tokens_per_second(slow.summary)
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


def _tokens_per_second(summary: outrider.Summary) -> float:
    return summary.tokens / (summary.duration_ms / 1000)
