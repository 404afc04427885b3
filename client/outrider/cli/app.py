"""The commands: each reads its options, makes its calls and prints what comes."""

from __future__ import annotations

import sys
from importlib.metadata import version
from itertools import chain, islice
from typing import Annotated

import typer
from rich.console import Console

from outrider.cli import options
from outrider.cli.chat import chat
from outrider.cli.render import TokenRenderer, summary_line
from outrider.cli.report import (
    description_lines,
    json_line,
    session_lines,
    session_row,
    started_json,
    summary_json,
)
from outrider.errors import CallerError
from outrider.sync import Reply

app = typer.Typer(
    help="Talk to an Outrider service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
sessions = typer.Typer(help="List, show and delete sessions.", no_args_is_help=True)
app.add_typer(sessions, name="sessions")
app.command()(chat)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"outrider {version('outrider')}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Talk to an Outrider service."""


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="Text, or - for standard input.")] = None,
    server: options.ServerOption = options.DEFAULT_SERVER,
    session: options.SessionOption = None,
    max_new_tokens: options.MaxNewTokensOption = None,
    temperature: options.TemperatureOption = None,
    top_k: options.TopKOption = None,
    top_p: options.TopPOption = None,
    min_p: options.MinPOption = None,
    repetition_penalty: options.PenaltyOption = None,
    frequency_penalty: options.PenaltyOption = None,
    presence_penalty: options.PenaltyOption = None,
    seed: options.SeedOption = None,
    stop: options.StopOption = None,
    stop_token_id: options.StopTokenOption = None,
    ignore_end_tokens: options.IgnoreEndOption = False,
    min_new_tokens: options.MinNewTokensOption = None,
    parse_control_tokens: options.ParseControlOption = False,
    draft: options.DraftOption = "auto",
    max_window: options.MaxWindowOption = None,
    logprobs: Annotated[
        int | None, typer.Option(help="0 for the token's own, or so many of the likeliest.")
    ] = None,
    timeout_ms: options.TimeoutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Continue PROMPT, in a new session or one that exists."""
    text = _prompt(prompt)
    with options.connected(server) as client:
        handle = options.session_for(client, session)
        with handle.generate(
            text,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            seed=seed,
            stop=stop or (),
            stop_token_ids=stop_token_id or (),
            ignore_end_tokens=ignore_end_tokens,
            min_new_tokens=min_new_tokens,
            parse_control_tokens=parse_control_tokens,
            draft=draft,
            max_window=max_window,
            logprobs=logprobs,
            timeout_ms=timeout_ms,
        ) as reply:
            if as_json:
                _print_json(reply, handle.id)
            else:
                _print_text(reply, handle.id)


@sessions.command("list")
def list_sessions(
    server: options.ServerOption = options.DEFAULT_SERVER, as_json: options.JsonOption = False
) -> None:
    """List sessions, newest first."""
    with options.connected(server) as client:
        for info in client.sessions():
            typer.echo(json_line(info) if as_json else session_row(info))


@sessions.command()
def show(
    session_id: Annotated[str, typer.Argument(metavar="ID")],
    server: options.ServerOption = options.DEFAULT_SERVER,
    as_json: options.JsonOption = False,
) -> None:
    """Show a session and its text."""
    with options.connected(server) as client:
        info = client.get_session(session_id, with_tokens=True)
        typer.echo(json_line(info) if as_json else "\n".join(session_lines(info)))


@sessions.command()
def delete(
    session_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    server: options.ServerOption = options.DEFAULT_SERVER,
) -> None:
    """Delete sessions."""
    with options.connected(server) as client:
        for session_id in session_ids:
            try:
                client.delete_session(session_id)
            except CallerError as error:
                raise type(error)(
                    f"session {session_id} was not deleted: {error.message}"
                ) from error
            typer.echo(f"deleted {session_id}")


@app.command()
def describe(
    server: options.ServerOption = options.DEFAULT_SERVER, as_json: options.JsonOption = False
) -> None:
    """Describe the service and its models."""
    with options.connected(server) as client:
        description = client.describe()
        typer.echo(json_line(description) if as_json else "\n".join(description_lines(description)))


def _prompt(prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        return prompt
    if sys.stdin is None or (prompt is None and sys.stdin.isatty()):
        raise typer.BadParameter("give a PROMPT, or - to read it from standard input")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"standard input is no {error.encoding} text") from None


def _print_json(reply: Reply, session_id: str) -> None:
    first = list(islice(reply, 1))  # the turn is known to have started once this is there
    if reply.started is not None:
        typer.echo(started_json(reply.started, session_id))
    for event in chain(first, reply):
        typer.echo(json_line(event, type="token"))
    typer.echo(summary_json(reply.summary))


def _print_text(reply: Reply, session_id: str) -> None:
    renderer = TokenRenderer(Console(file=sys.stdout))
    try:
        for event in reply:
            renderer.write(event)
    finally:
        renderer.finish()
    typer.echo(f"{summary_line(reply.summary)} · session {session_id}", err=True)
