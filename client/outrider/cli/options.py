"""The options that commands share, and the connection that turns failures into exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from outrider.errors import InvalidRequestError, OutriderError
from outrider.sync import Client, Session
from outrider.types import DraftMode

DEFAULT_SERVER = "127.0.0.1:7700"

ServerOption = Annotated[
    str,
    typer.Option("--server", envvar="OUTRIDER_SERVER", metavar="HOST:PORT", help="The service."),
]
SessionOption = Annotated[
    str | None, typer.Option("--session", metavar="ID", help="Continue this session.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
MaxNewTokensOption = Annotated[int | None, typer.Option(help="The most tokens to generate.")]
TemperatureOption = Annotated[float | None, typer.Option(help="0 decides greedily.")]
TopKOption = Annotated[int | None, typer.Option(help="Keep so many tokens; 0 keeps all.")]
TopPOption = Annotated[float | None, typer.Option(help="Keep tokens up to this mass.")]
MinPOption = Annotated[float | None, typer.Option(help="Keep tokens so likely beside the best.")]
PenaltyOption = Annotated[float | None, typer.Option(help="Weakens tokens that were used.")]
SeedOption = Annotated[int | None, typer.Option(help="Keys the randomness.")]
StopOption = Annotated[list[str] | None, typer.Option(help="A text that ends the turn.")]
StopTokenOption = Annotated[
    list[int] | None, typer.Option("--stop-token-id", help="A token id that ends the turn.")
]
IgnoreEndOption = Annotated[
    bool, typer.Option("--ignore-end-tokens", help="Go on after the model's end tokens.")
]
MinNewTokensOption = Annotated[
    int | None, typer.Option(help="No end token is drawn before so many tokens.")
]
ParseControlOption = Annotated[
    bool,
    typer.Option(
        "--parse-control-tokens",
        help="Take the text of control tokens, such as <|im_start|>, as these tokens.",
    ),
]
DraftOption = Annotated[DraftMode, typer.Option(help="Who may propose tokens.")]
MaxWindowOption = Annotated[int | None, typer.Option(help="The most tokens proposed in a round.")]
TimeoutOption = Annotated[int | None, typer.Option(help="Deadline in milliseconds.")]


@contextmanager
def connected(server: str) -> Iterator[Client]:
    """A client for the body of a command, whose failures end the command with one line."""
    try:
        client = Client(server)
    except InvalidRequestError as error:
        typer.echo(f"outrider: --server: {error.message}", err=True)
        raise typer.Exit(2) from None
    try:
        with client:
            yield client
    except OutriderError as error:
        typer.echo(f"outrider: {_one_line(error)}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def session_for(client: Client, session_id: str | None) -> Session:
    """The session that was named, or a new one."""
    return client.create_session() if session_id is None else client.open_session(session_id)


def _one_line(error: OutriderError) -> str:
    message = " ".join(error.message.split())
    if isinstance(error, InvalidRequestError) and error.field and error.field not in message:
        return f"{error.field}: {message}"
    return message
