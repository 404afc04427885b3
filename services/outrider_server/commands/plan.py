"""The command `outrider-server plan`: options in, settings out. Imports the rest only when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..config import TARGET_ENGINE, draft_beside
from ..engine.options import Dtype, EngineOptions
from ..planning.config_path import config_path
from ..planning.settings import PlanSettings
from ..planning.units import parse_bytes, parse_rate
from .engine_options import takes_engine
from .options import DraftQuantization

NO_DRAFT = "none"


Draft = Annotated[
    str, typer.Option(help="The draft model's folder, config.json or GGUF file, or none.")
]
DraftDtype = Annotated[Dtype, typer.Option(help="The draft's dtype; auto keeps its own.")]
Memory = Annotated[str | None, typer.Option(help="What has to hold it, for example 80GiB.")]
Bandwidth = Annotated[str | None, typer.Option(help="Of the memory, for example 3.35TB/s.")]
Agreement = Annotated[float, typer.Option(help="Chance that a guess of the draft agrees.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Chart = Annotated[Path | None, typer.Option(help="Draw the plan into this PNG file.")]


@takes_engine(
    TARGET_ENGINE,
    without=("attention", "park_bytes", "queue", "reproducible", "threads", "tensor_parallel"),
    names={"folder": "target"},
    helps={
        "folder": "Folder of the target model, its config.json, or its GGUF file.",
        "device": "A torch device, which need not be here.",
        "quantization": "Quantize the weights; none plans what the checkpoint holds.",
    },
)
def plan(
    engine: EngineOptions,
    draft: Draft = NO_DRAFT,
    draft_dtype: DraftDtype = "auto",
    draft_quantization: DraftQuantization = "none",
    memory: Memory = None,
    bandwidth: Bandwidth = None,
    agreement: Agreement = 0.8,
    as_json: Json = False,
    chart: Chart = None,
) -> None:
    """Plan memory and speed from configurations alone, before any weights are there."""
    settings = PlanSettings(
        target=engine,
        draft=None
        if draft == NO_DRAFT
        else draft_beside(
            engine, folder=Path(draft), dtype=draft_dtype, quantization=draft_quantization
        ),
        memory_bytes=None if memory is None else parse_bytes(memory),
        bandwidth=None if bandwidth is None else parse_rate(bandwidth),
        agreement=agreement,
        chart=chart,
    )
    for options in filter(None, (settings.target, settings.draft)):
        config_path(options.folder)
    from ..planning.plan import make_plan
    from ..planning.report import as_object, print_plan

    made = make_plan(settings)
    if chart is not None:
        from ..planning.chart import draw_plan

        draw_plan(made, chart)
    if as_json:
        print(json.dumps(as_object(made)))
    else:
        print_plan(made)
