"""The command `outrider-server bench`: options in, settings out. Imports the rest only when it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from outrider_server.core.errors import StartupError
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER

from .ending import end
from .options import (
    Bits,
    Compile,
    Device,
    Draft,
    DraftOrNone,
    DtypeOption,
    LlamaCpp,
    OpenVinoPython,
    Peers,
    PerCategory,
    PrefillWidth,
    ReplyTokens,
    Target,
    Threads,
    Widen,
    Without,
    draft_folder,
    left_out,
)
from .peer_options import PeerOptions
from .sessions_command import sessions
from .settings import SUITES, BenchSettings
from .weights import weights_of

DEFAULT = "speed"
SLOW = ("transformers static",)
"""Left out of questions unless told otherwise: it compiles anew for every length of a chat."""


class Benchmarks(typer.core.TyperGroup):
    """The benchmarks by their names. Words that begin with none of them are for the default one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the default one's name before its suites and options."""
        if not args or args[0] not in (*self.commands, "--help"):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs one. Raises StartupError where a package that it needs is not installed."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise StartupError(
                f"the package {error.name} is missing: pip install 'outrider[bench]'"
            ) from error


bench = typer.Typer(
    cls=Benchmarks,
    help=f"Measure Outrider on this machine. Where no command is named, options and suites are of {DEFAULT}.",
)
bench.add_typer(sessions, name="sessions")


@bench.command(DEFAULT)
def speed(
    suites: Annotated[
        list[str] | None, typer.Argument(help=f"Any of {', '.join(SUITES)}; all by default.")
    ] = None,
    target: Target = TARGET_FOLDER,
    draft: DraftOrNone = DRAFT_FOLDER,
    widen: Widen = 0.0,
    bits: Bits = 16,
    tokens: Annotated[int, typer.Option(help="Tokens of each measured turn.")] = 256,
    prompts: Annotated[int, typer.Option(help="Prompts for each temperature.")] = 5,
    repeats: Annotated[int, typer.Option(help="Repeats of what is no turn per prompt.")] = 5,
    temperature: Annotated[
        list[float] | None, typer.Option(help="May be repeated; 0.7 and 0 by default.")
    ] = None,
    llama_cpp: LlamaCpp = None,
    openvino_python: OpenVinoPython = None,
    output: Annotated[Path, typer.Option(help="Folder for results.json and charts.")] = Path(
        "outrider-bench"
    ),
    peers: Peers = True,
    without: Without = None,
) -> None:
    """Measure turns beside other software, on prompts that never repeat. Its name may be left out."""
    settings = BenchSettings(
        suites=tuple(suites or SUITES),
        target=target,
        draft=draft_folder(draft),
        widen=widen,
        tokens=tokens,
        prompts=prompts,
        repeats=repeats,
        temperatures=tuple(temperature or (0.7, 0.0)),
        output=output,
        peers=PeerOptions(weights_of(bits), peers, llama_cpp, openvino_python, left_out(without)),
    )
    from .run import run_bench

    end(lambda: asyncio.run(run_bench(settings)))


@bench.command()
def questions(
    file: Annotated[Path, typer.Argument(help="JSON lines: question_id, category, turns.")],
    target: Annotated[
        Path, typer.Option(help="Folder or GGUF file of the target model.")
    ] = TARGET_FOLDER,
    draft: Annotated[
        Path, typer.Option(help="Folder or GGUF file of the draft model, or none.")
    ] = DRAFT_FOLDER,
    bits: Bits = 16,
    tokens: Annotated[int, typer.Option(help="The most tokens of each reply.")] = 256,
    per_category: PerCategory = 0,
    temperature: Annotated[
        list[float] | None, typer.Option(help="May be repeated; 0, 0.7 and 1 by default.")
    ] = None,
    llama_cpp: LlamaCpp = None,
    openvino_python: OpenVinoPython = None,
    output: Annotated[
        Path, typer.Option(help="Folder for results.json, questions.md and charts.")
    ] = Path("outrider-bench"),
    peers: Peers = True,
    without: Without = None,
) -> None:
    """Measure chats with questions of a file, category by category, beside other software."""
    from .questions_run import run_questions
    from .questions_settings import QuestionSettings

    settings = QuestionSettings(
        file=file,
        target=target,
        draft=draft_folder(draft),
        output=output,
        peers=PeerOptions(
            weights_of(bits), peers, llama_cpp, openvino_python, left_out(without, SLOW)
        ),
        tokens=tokens,
        per_category=per_category,
        temperatures=tuple(temperature or (0.0, 0.7, 1.0)),
    )
    end(lambda: asyncio.run(run_questions(settings)))


@bench.command()
def pair(
    target: Annotated[Path, typer.Argument(help="Folder or GGUF file of the target model.")],
    draft: Annotated[Path, typer.Argument(help="Folder or GGUF file of the draft model.")],
    questions: Annotated[
        Path | None, typer.Option(help="JSON lines: question_id, category, turns.")
    ] = None,
    per_category: PerCategory = 0,
    prompts: Annotated[int, typer.Option(help="Bundled texts, where there are no questions.")] = 16,
    widen: Widen = 0.0,
    tokens: ReplyTokens = 256,
    temperature: Annotated[
        list[float] | None, typer.Option(help="May be repeated; 0, 0.7 and 1 by default.")
    ] = None,
    round_trip_ms: Annotated[
        list[float] | None,
        typer.Option(help="Way to the draft and back; may be repeated; 0, 2 and 20 by default."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for results.json and pair.md.")] = Path(
        "outrider-bench"
    ),
) -> None:
    """Foretell what a draft is worth to a target, from forward passes of both, neither of which is served."""
    from .pair.run import run_pair
    from .pair.settings import PairSettings

    settings = PairSettings(
        target=target,
        draft=draft,
        output=output,
        questions=questions,
        widen=widen,
        tokens=tokens,
        prompts=prompts,
        per_category=per_category,
        temperatures=tuple(temperature or (0.0, 0.7, 1.0)),
        round_trips_ms=tuple(round_trip_ms or (0.0, 2.0, 20.0)),
    )
    end(lambda: run_pair(settings))


@bench.command()
def ledger(
    ledgers: Annotated[
        list[str], typer.Argument(help="Files that are not there, or postgresql://USER@HOST/EMPTY.")
    ],
    appends: Annotated[int, typer.Option(help="Appends in each session.", min=1)] = 2000,
    idle: Annotated[int, typer.Option(help="Idle sessions.", min=1)] = 10_000,
) -> None:
    """Measure appends and idle sessions of ledgers, which keep what is written."""
    from .ledger import run_ledgers

    end(lambda: run_ledgers(ledgers, appends, idle))


@bench.command()
def attention(
    model: Annotated[Path, typer.Option(help="Folder of the model.")] = TARGET_FOLDER,
    widen: Widen = 0.0,
    tokens: Annotated[int, typer.Option(help="Tokens of the prompt.", min=2)] = 2000,
    dtype: DtypeOption = "float32",
    device: Device = "cpu",
    compile: Compile = "auto",
    threads: Threads = 1,
    prefill_width: PrefillWidth = 64,
) -> None:
    """Measure the attention kernels: time, peak memory, and whether tokens differ."""
    from .attention import AttentionSettings, run_attention

    settings = AttentionSettings(
        model=model,
        widen=widen,
        tokens=tokens,
        dtype=dtype,
        device=device,
        compile=compile,
        threads=threads,
        prefill_width=prefill_width,
    )
    end(lambda: run_attention(settings))


@bench.command()
def quantized(
    target: Target = TARGET_FOLDER,
    draft: Draft = DRAFT_FOLDER,
    threads: Annotated[int, typer.Option(help="CPU threads of the models.", min=1)] = 1,
) -> None:
    """Measure quantized weights beside plain ones: bytes, steps, perplexity and agreement."""
    from .quantized import run_quantized

    end(lambda: run_quantized(target, draft, threads))


@bench.command("from-gguf")
def from_gguf(
    file: Annotated[Path, typer.Argument(help="A GGUF file of a model that transformers reads.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make; it must not be there.")],
) -> None:
    """Make a folder that Outrider serves of a GGUF file: bf16 weights, tokenizer, chat template."""
    from .from_gguf import run_from_gguf

    end(lambda: run_from_gguf(file, folder))
