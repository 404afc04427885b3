"""The chat command: reads messages and shows each reply live, coloured by who wrote its tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from outrider.cli import options
from outrider.cli.render import TokenRenderer, summary_line, write_legend
from outrider.sync import Reply
from outrider.types import ChatMessage


def chat(
    server: options.ServerOption = options.DEFAULT_SERVER,
    session: options.SessionOption = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_new_tokens: options.MaxNewTokensOption = None,
    temperature: options.TemperatureOption = None,
    top_k: options.TopKOption = None,
    top_p: options.TopPOption = None,
    min_p: options.MinPOption = None,
    seed: options.SeedOption = None,
    draft: options.DraftOption = "auto",
    max_window: options.MaxWindowOption = None,
) -> None:
    """Chat until the end of input (Ctrl-D). Colours show which tokens the draft got right."""
    console = Console(file=sys.stdout)
    with options.connected(server) as client:
        handle = options.session_for(client, session)
        if console.is_terminal:
            write_legend(console)
        opening = [] if system is None else [ChatMessage("system", system)]
        for line in _lines():
            with handle.generate(
                [*opening, ChatMessage("user", line)],
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                seed=seed,
                draft=draft,
                max_window=max_window,
            ) as reply:
                _show(reply, console)
            opening = []
        typer.echo(f"continue with --session {handle.id}", err=True)


def _lines() -> Iterator[str]:
    """The messages that the user writes; empty lines are skipped."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            if prompt:
                typer.echo()
            return
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"standard input is no {error.encoding} text") from None
        if line:
            yield line


def _show(reply: Reply, console: Console) -> None:
    renderer = TokenRenderer(console)
    try:
        for event in reply:
            renderer.write(event)
    finally:
        renderer.finish()
    if console.is_terminal:
        line = summary_line(reply.summary)
        console.print(line, style="dim", highlight=False, soft_wrap=True)
