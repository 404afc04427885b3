"""The options that several benchmarks share: their values, and what they say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from outrider_server.engine.options import CompileMode, Dtype

Target = Annotated[Path, typer.Option(help="Folder of the target model.")]
Draft = Annotated[Path, typer.Option(help="Folder of the draft model.")]
DraftOrNone = Annotated[Path, typer.Option(help="Folder of the draft model, or none.")]
Bits = Annotated[
    int,
    typer.Option(help="Bits a weight of the linear layers, Outrider's and its peers': 16, 8 or 4."),
]
LlamaCpp = Annotated[
    Path | None, typer.Option(help="Folder with llama.cpp's binaries, to compare with.")
]
OpenVinoPython = Annotated[
    Path | None, typer.Option(help="A Python that has openvino-genai, to compare with.")
]
Peers = Annotated[bool, typer.Option(help="Compare with other software.")]
Without = Annotated[
    list[str] | None,
    typer.Option(
        help="A peer, or a mode of one, to leave out; may be repeated; none leaves none out."
    ),
]
Widen = Annotated[
    float, typer.Option(help="Make the target cost what so many million weights cost; 0: not.")
]
DraftMode = Annotated[
    Literal["auto", "model", "ngram", "off"], typer.Option(help="What guesses for the sessions.")
]
Slots = Annotated[int, typer.Option(help="Slots of the target and of the draft.")]
PromptTokens = Annotated[int, typer.Option(help="Tokens of each input.")]
ReplyTokens = Annotated[int, typer.Option(help="The most tokens of each reply.")]
PerCategory = Annotated[
    int, typer.Option(help="Questions of each category, from the first on; 0 takes all.")
]
Talks = Annotated[int, typer.Option(help="Different talks; each is held by several sessions.")]
ParkMemory = Annotated[
    str, typer.Option(help="Host memory for sessions without a slot, for example 4GiB.")
]
Seed = Annotated[int, typer.Option(help="What is random follows from it.")]
Threads = Annotated[int, typer.Option(help="CPU threads of the model; 0 takes every core.")]
Compile = Annotated[CompileMode, typer.Option(help="Whether steps are recorded or compiled.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Of weights and cache.")]
Device = Annotated[str, typer.Option(help="A torch device, for example cpu or cuda:0.")]
PrefillWidth = Annotated[int, typer.Option(help="Tokens a prefill step; a multiple of 8.")]


def draft_folder(draft: Path) -> Path | None:
    """The folder that `DraftOrNone` names."""
    return None if str(draft) == "none" else draft


def left_out(without: list[str] | None, usually: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What `Without` names; `usually` where it names nothing."""
    return usually if not without else tuple(words for words in without if words != "none")
