"""The chat command: reads messages and shows each reply live, coloured by who wrote its tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from outrider.cli import options
from outrider.cli.render import TokenRenderer, printable, summary_line, write_legend
from outrider.errors import InvalidRequestError
from outrider.sync import Client, Reply, Session
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
    """Chat until the end of input (Ctrl-D); Ctrl-C ends a reply. Colours show what the draft got right."""
    console = Console(file=sys.stdout)
    handle: Session | None = None
    try:
        with options.connected(server) as client:
            if console.is_terminal:
                _introduce(client, server, console)
            handle = options.session_for(client, session)
            opening = [] if system is None else [ChatMessage("system", system)]
            for line in _lines():
                with (
                    handle.generate(
                        [*opening, ChatMessage("user", line)],
                        max_new_tokens=max_new_tokens,
                        temperature=temperature,
                        top_k=top_k,
                        top_p=top_p,
                        min_p=min_p,
                        seed=seed,
                        draft=draft,
                        max_window=max_window,
                    ) as reply,
                    _refusals_of(reply),
                ):
                    _show(reply, console)
                if reply.started is not None:
                    opening = []
    finally:
        if handle is not None:
            typer.echo(f"continue with --session {handle.id}", err=True)


def _introduce(client: Client, server: str, console: Console) -> None:
    """Says who answers, and what the colours mean."""
    description = client.describe()
    name = printable(f"{description.target.name} at {server}")
    console.print(name, style="dim", highlight=False, markup=False, soft_wrap=True)
    write_legend(console, description.draft is not None)


@contextmanager
def _refusals_of(reply: Reply) -> Iterator[None]:
    """Tells the user at a terminal why a message is refused; the next one may be taken."""
    try:
        yield
    except InvalidRequestError as error:
        if (
            reply.started is not None
            or not sys.stdin.isatty()
            or error.field not in ("chat", "input")
        ):
            raise
        typer.echo(f"outrider: {error.message}; this message was not sent", err=True)


def _lines() -> Iterator[str]:
    """The messages that the user writes; empty lines are skipped, and those that are no text are told of."""
    if sys.stdin is None:  # closed by whoever started the command
        return
    encoding, asks = sys.stdin.encoding, sys.stdin.isatty()
    while True:
        written = b""
        try:
            if asks:
                typer.echo("> ", nl=False, err=True)
            written = sys.stdin.buffer.readline()
        finally:
            if asks and not written:  # the end of input, or an interrupt: the prompt ends its line
                typer.echo(err=True)
        if not written:
            return
        try:
            line = written.decode(encoding).strip()
        except UnicodeDecodeError:
            typer.echo(f"outrider: this line is no {encoding} text, so it was not sent", err=True)
            continue
        if line:
            yield line


def _show(reply: Reply, console: Console) -> None:
    """Shows a reply as it comes. An interrupt ends it, and the chat only where nobody is asked on."""
    renderer = TokenRenderer(console)
    try:
        for event in reply:
            renderer.write(event)
    except KeyboardInterrupt:
        reply.cancel()
        if not sys.stdin.isatty():
            raise
        return
    finally:
        renderer.finish()
    if console.is_terminal:
        line = summary_line(reply.summary)
        console.print(line, style="dim", highlight=False, soft_wrap=True)
