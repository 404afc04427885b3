"""The command `outrider-server`: options in, configurations out. Errors are one line and exit status 2."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from typing import Annotated

import typer
from outrider_bench.command import bench

from .. import address
from .. import config as configuration
from ..core.errors import StartupError
from ..engine.options import CompileMode, EngineOptions
from ..logs import set_up_logs
from ..pacing.window import USUAL_LEAD, USUAL_WINDOW
from ..rpc.binding import check_free
from ..running import refuse, run, serve
from ..user_folders import with_home
from .chat_model import chat_model
from .distill import distill
from .engine_options import takes_engine
from .kernels import kernels
from .options import (
    Bundled,
    DraftAttention,
    DraftDevice,
    DraftDtype,
    DraftQuantization,
    GenerationDefaults,
    GenerationDefaultsOption,
    Lead,
    LeaseSeconds,
    Ledger,
    Listen,
    Loop,
    LoopOption,
    SweepSeconds,
    TtlSeconds,
    Version,
    Window,
)
from .pair_choice import NO_DRAFT, default_choice, named_choice
from .plan import plan
from .quantize import quantize

app = typer.Typer(
    help="Serve large language models by distributed speculative decoding.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main_options(
    version: Version = False,
) -> None:
    """Serve large language models by distributed speculative decoding."""


@app.command()
@takes_engine(
    configuration.TARGET_ENGINE,
    helps={"folder": "Folder of the target model, its GGUF file, or its name on a hub."},
)
def target(
    engine: EngineOptions, listen: Listen = f"127.0.0.1:{configuration.TARGET_PORT}"
) -> None:
    """Run the target service: the large model, which decides every token."""
    from .wiring import run_target

    serve(run_target(configuration.TargetConfig(listen=listen, engine=engine)))


@app.command()
@takes_engine(
    configuration.DRAFT_ENGINE,
    without=("queue", "width", "reproducible"),
    helps={"folder": "Folder of the draft model, its GGUF file, or its name on a hub."},
)
def draft(engine: EngineOptions, listen: Listen = f"127.0.0.1:{configuration.DRAFT_PORT}") -> None:
    """Run the draft service: the small model, which guesses ahead."""
    from .wiring import run_draft

    serve(run_draft(configuration.DraftConfig(listen=listen, engine=engine)))


@app.command()
def session(
    target: Annotated[
        str,
        typer.Option(
            help="Address of the target, or several with commas; dns:///HOST:PORT for all."
        ),
    ] = (f"127.0.0.1:{configuration.TARGET_PORT}"),
    draft: Annotated[
        str,
        typer.Option(help="Address of the draft, several with commas, dns:///HOST:PORT, or none."),
    ] = (f"127.0.0.1:{configuration.DRAFT_PORT}"),
    listen: Listen = f"127.0.0.1:{configuration.SESSION_PORT}",
    ledger: Ledger = None,
    window: Window = USUAL_WINDOW,
    lead: Lead = USUAL_LEAD,
    loop: LoopOption = Loop.ADAPTIVE,
    generation_defaults: GenerationDefaultsOption = GenerationDefaults.NEUTRAL,
    ttl_seconds: TtlSeconds = 0,
    sweep_seconds: SweepSeconds = 60.0,
    lease_seconds: LeaseSeconds = 5.0,
) -> None:
    """Run the session service: the public API, the ledger and the decode loop."""
    from .wiring import run_session

    serve(
        run_session(
            configuration.SessionConfig(
                listen=listen,
                targets=_addresses(target),
                drafts=() if draft == NO_DRAFT else _addresses(draft),
                ledger=ledger or configuration.default_ledger(),
                window=window,
                lead=lead,
                loop=loop.mode(),
                generation_defaults=generation_defaults.value,
                ttl_seconds=ttl_seconds,
                sweep_seconds=sweep_seconds,
                lease_seconds=lease_seconds,
            )
        )
    )


@app.command()
@takes_engine(
    configuration.TARGET_ENGINE,
    without=("folder", "width", "prefill_width"),
)
def up(
    engine: EngineOptions,
    target: Annotated[
        str | None,
        typer.Option(help="Folder of the target model, its GGUF file, or its name on a hub."),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(help="Folder of the draft model, its GGUF file, its name on a hub, or none."),
    ] = None,
    bundled: Bundled = False,
    draft_dtype: DraftDtype = None,
    draft_device: DraftDevice = None,
    draft_quantization: DraftQuantization = "none",
    draft_attention: DraftAttention = "auto",
    listen: Listen = f"127.0.0.1:{configuration.SESSION_PORT}",
    ledger: Ledger = None,
    window: Window = USUAL_WINDOW,
    lead: Lead = USUAL_LEAD,
    loop: LoopOption = Loop.ADAPTIVE,
    generation_defaults: GenerationDefaultsOption = GenerationDefaults.NEUTRAL,
) -> None:
    """Run all three services on this machine. The draft gets one CPU thread."""
    from .up import run_up

    choice = named_choice(target, draft, bundled)
    engine = replace(engine, folder=choice.pair.target)
    configuration.TargetConfig(engine=engine)
    config = configuration.SessionConfig(
        listen=listen,
        ledger=ledger or configuration.default_ledger(),
        window=window,
        lead=lead,
        loop=loop.mode(),
    )
    draft_options = configuration.draft_beside(
        engine,
        dtype=draft_dtype or engine.dtype,
        device=draft_device or engine.device,
        quantization=draft_quantization,
        attention=draft_attention,
    )
    check_free(address.Listen.read(listen))
    sessions = [f"--listen={listen}", f"--window={window}", f"--lead={lead}", f"--loop={loop}"]
    sessions += [f"--generation-defaults={generation_defaults}"]
    folder = choice.pair.draft
    drafting = None if folder is None else replace(draft_options, folder=folder)
    sys.exit(run(run_up(str(config.ledger), sessions, engine, drafting, choice.note)))


@app.command()
def demo(
    bundled: Bundled = False,
    compile: Annotated[
        CompileMode, typer.Option(help="Whether steps are recorded or compiled.")
    ] = "auto",
) -> None:
    """Watch the services stream a chat, with and without speculation."""
    from .demo import run_demo

    sys.exit(run(run_demo(default_choice(bundled), compile)))


app.add_typer(bench, name="bench")
app.command()(plan)
app.command()(quantize)
app.command()(distill)
app.command()(kernels)
app.command("chat-model")(chat_model)


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(address.read_peer(each.strip()) for each in text.split(","))


def _check_given(arguments: list[str]) -> None:
    """Raises StartupError for an empty value, which a path would take for the working directory."""
    before = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if not argument or (option.startswith("--") and equals and not value):
            name = option or (before if before.startswith("--") else "an argument")
            raise StartupError(f"{name} is empty; give it a value, or leave it out")
        before = argument


def main() -> None:
    """The command's entry point."""
    set_up_logs()
    sys.argv[1:] = [with_home(argument) for argument in sys.argv[1:]]
    try:
        _check_given(sys.argv[1:])
        app(prog_name="outrider-server")
    except StartupError as error:
        refuse(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        refuse(StartupError("a name is longer than any file's; give a shorter one"))
