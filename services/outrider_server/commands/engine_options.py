"""An engine's options on a command line: made of the fields of `EngineOptions`, and written as arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from ..core.errors import StartupError
from ..engine.options import EngineOptions
from ..planning.units import parse_bytes

PARAMETER = "engine"
NAMES = {"folder": "model", "park_bytes": "park_memory"}
"""The options that are not called as their fields."""
SIZE = "park_bytes"
"""The field that is written as a size, with its unit."""
FIELDS = tuple(field.name for field in fields(EngineOptions))

Command = Callable[..., None]


def takes_engine(
    defaults: EngineOptions,
    *,
    without: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    helps: Mapping[str, str] | None = None,
) -> Callable[[Command], Command]:
    """Gives a command an option for each field of its parameter `engine`.

    Fields named in `without` keep what `defaults` has and are no options. `names` and `helps` are what this
    command calls a field's option and says of it, where that is not what others do.
    """
    options = {name: NAMES.get(name, name) for name in FIELDS if name not in without}
    options |= names or {}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            changes = {field: _read(field, given.pop(name)) for field, name in options.items()}
            command(**{PARAMETER: replace(defaults, **changes)}, **given)

        own = inspect.signature(command).parameters
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in own.values():
            if parameter.name == PARAMETER:
                parameters += _parameters(defaults, options, helps or {})
            else:
                parameters.append(parameter.replace(annotation=hints[parameter.name]))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def engine_arguments(options: EngineOptions, defaults: EngineOptions) -> list[str]:
    """The arguments that make a command with these defaults run an engine with these options."""
    arguments = []
    for name in FIELDS:
        value = getattr(options, name)
        if value != getattr(defaults, name):
            option = "--" + NAMES.get(name, name).replace("_", "-")
            arguments.append(option if value is True else f"{option}={_written(name, value)}")
    return arguments


def _parameters(
    defaults: EngineOptions, options: Mapping[str, str], helps: Mapping[str, str]
) -> list[inspect.Parameter]:
    hints = get_type_hints(EngineOptions, include_extras=True)
    made = []
    for field, name in options.items():
        of_field, said = get_args(hints[field])
        option = typer.Option(help=helps.get(field, said))
        default = getattr(defaults, field)
        if field == SIZE:
            of_field, default = str, _written(field, default)
        made.append(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=default,
                annotation=Annotated[of_field, option],
            )
        )
    return made


def _read(field: str, value: Any) -> Any:
    """A field's value of its option's. Raises StartupError."""
    if field != SIZE:
        return value
    if value == "0":
        return 0
    try:
        return parse_bytes(value, "park memory")
    except StartupError as error:
        raise StartupError(f"{error}, or 0 for none") from error


def _written(field: str, value: Any) -> str:
    if isinstance(value, Path) and value.exists():
        return str(value.absolute())  # where nothing of it is taken for an option or a home folder
    if field != SIZE:
        return str(value)
    gibibytes, rest = divmod(value, 1 << 30)
    return f"{gibibytes}GiB" if gibibytes and not rest else f"{value}B" if value else "0"
