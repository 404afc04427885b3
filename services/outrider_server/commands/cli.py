"""The command `outrider-server`: options in, configurations out. Errors are one line and exit status 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import address
from .. import config as configuration
from ..bench.command import bench
from ..core.errors import StartupError
from ..engine.options import EngineOptions
from ..logs import set_up_logs
from ..models import DRAFT_FOLDER, TARGET_FOLDER
from ..planning.command import plan
from ..quantization.command import quantize
from ..rpc.binding import check_free
from ..running import refuse, run, serve
from ..user_folders import with_home
from .options import (
    Attention,
    AttentionOption,
    Compile,
    CompileOption,
    Context,
    Device,
    DraftAttention,
    DraftDevice,
    DraftDtype,
    DraftQuantization,
    Dtype,
    DtypeOption,
    GenerationDefaults,
    GenerationDefaultsOption,
    Lead,
    LeaseSeconds,
    Ledger,
    Listen,
    Loop,
    LoopOption,
    ParkMemory,
    PrefillWidth,
    Quantization,
    QuantizationOption,
    Queue,
    Ranks,
    Reproducible,
    Rows,
    Slots,
    SweepSeconds,
    Threads,
    TtlSeconds,
    Version,
    Width,
    Window,
    park_bytes,
)

NO_DRAFT = "none"
PARK_MEMORY = "1GiB"
QUEUE = 64

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
def target(
    model: Annotated[
        Path, typer.Option(help="Folder of the target model, or its name on a hub.")
    ] = TARGET_FOLDER,
    listen: Listen = f"127.0.0.1:{configuration.TARGET_PORT}",
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    quantization: QuantizationOption = Quantization.NONE,
    attention: AttentionOption = Attention.AUTO,
    slots: Slots = 8,
    park_memory: ParkMemory = PARK_MEMORY,
    queue: Queue = QUEUE,
    rows: Rows = 0,
    width: Width = 8,
    prefill_width: PrefillWidth = 64,
    max_context_tokens: Context = 0,
    compile: CompileOption = Compile.AUTO,
    reproducible: Reproducible = False,
    threads: Threads = 0,
    tensor_parallel: Ranks = 1,
) -> None:
    """Run the target service: the large model, which decides every token."""
    from .wiring import run_target

    engine = EngineOptions(
        folder=model,
        dtype=dtype.value,
        device=device,
        quantization=quantization.value,
        attention=attention.value,
        slots=slots,
        park_bytes=park_bytes(park_memory),
        queue=queue,
        rows=rows or slots,
        width=width,
        prefill_width=prefill_width,
        max_context_tokens=max_context_tokens,
        compile=compile.value,
        reproducible=reproducible,
        threads=threads,
        tensor_parallel=tensor_parallel,
    )
    serve(run_target(configuration.TargetConfig(listen=listen, engine=engine)))


@app.command()
def draft(
    model: Annotated[
        Path, typer.Option(help="Folder of the draft model, or its name on a hub.")
    ] = DRAFT_FOLDER,
    listen: Listen = f"127.0.0.1:{configuration.DRAFT_PORT}",
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    quantization: QuantizationOption = Quantization.NONE,
    attention: AttentionOption = Attention.AUTO,
    slots: Slots = 8,
    park_memory: ParkMemory = PARK_MEMORY,
    rows: Rows = 0,
    prefill_width: PrefillWidth = 64,
    max_context_tokens: Context = 0,
    compile: CompileOption = Compile.AUTO,
    threads: Threads = 1,
    tensor_parallel: Ranks = 1,
) -> None:
    """Run the draft service: the small model, which guesses ahead."""
    from .wiring import run_draft

    engine = EngineOptions(
        folder=model,
        dtype=dtype.value,
        device=device,
        quantization=quantization.value,
        attention=attention.value,
        slots=slots,
        park_bytes=park_bytes(park_memory),
        rows=rows or slots,
        width=configuration.DRAFT_WIDTH,
        prefill_width=prefill_width,
        max_context_tokens=max_context_tokens,
        compile=compile.value,
        threads=threads,
        tensor_parallel=tensor_parallel,
    )
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
    window: Window = 7,
    lead: Lead = 8,
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
def up(
    target: Annotated[
        Path, typer.Option(help="Folder of the target model, or its name on a hub.")
    ] = TARGET_FOLDER,
    draft: Annotated[
        str, typer.Option(help="Folder of the draft model, its name on a hub, or none.")
    ] = str(DRAFT_FOLDER),
    listen: Listen = f"127.0.0.1:{configuration.SESSION_PORT}",
    ledger: Ledger = None,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    quantization: QuantizationOption = Quantization.NONE,
    attention: AttentionOption = Attention.AUTO,
    draft_dtype: DraftDtype = None,
    draft_device: DraftDevice = None,
    draft_quantization: DraftQuantization = Quantization.NONE,
    draft_attention: DraftAttention = Attention.AUTO,
    slots: Slots = 8,
    park_memory: ParkMemory = PARK_MEMORY,
    queue: Queue = QUEUE,
    rows: Rows = 0,
    max_context_tokens: Context = 0,
    compile: CompileOption = Compile.AUTO,
    reproducible: Reproducible = False,
    threads: Threads = 0,
    tensor_parallel: Ranks = 1,
    window: Window = 7,
    lead: Lead = 8,
    loop: LoopOption = Loop.ADAPTIVE,
    generation_defaults: GenerationDefaultsOption = GenerationDefaults.NEUTRAL,
) -> None:
    """Run all three services on this machine. The draft gets one CPU thread."""
    from .up import run_up

    config = configuration.SessionConfig(
        listen=listen,
        ledger=ledger or configuration.default_ledger(),
        window=window,
        lead=lead,
        loop=loop.mode(),
    )
    check_free(address.Listen.read(listen))
    engine = [f"--slots={slots}", f"--rows={rows}", f"--compile={compile.value}"]
    engine += [f"--max-context-tokens={max_context_tokens}", f"--park-memory={park_memory}"]
    targets = [*engine, f"--model={target}", f"--threads={threads}"]
    targets += [f"--dtype={dtype.value}", f"--device={device}", f"--quantization={quantization}"]
    targets += [f"--attention={attention}", f"--queue={queue}"]
    targets += [f"--tensor-parallel={tensor_parallel}"]
    targets += ["--reproducible"] if reproducible else []
    drafts = [*engine, f"--model={draft}", f"--dtype={(draft_dtype or dtype).value}"]
    drafts += [f"--device={draft_device or device}", f"--quantization={draft_quantization}"]
    drafts += [f"--attention={draft_attention}"]
    sessions = [f"--listen={listen}", f"--window={window}", f"--lead={lead}", f"--loop={loop}"]
    sessions += [f"--generation-defaults={generation_defaults}"]
    wanted = None if draft == NO_DRAFT else drafts
    sys.exit(run(run_up(str(config.ledger), sessions, targets, wanted)))


@app.command()
def demo(compile: CompileOption = Compile.AUTO) -> None:
    """Watch the three services stream text, with and without speculation."""
    from .demo import run_demo

    sys.exit(run(run_demo(compile.value)))


app.command()(bench)
app.command()(plan)
app.command()(quantize)


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
        app()
    except StartupError as error:
        refuse(error)
