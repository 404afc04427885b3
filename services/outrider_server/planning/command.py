"""The command `outrider-server plan`: options in, settings out. Imports the rest only when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..models import TARGET_FOLDER
from .settings import PlanSettings
from .types import EngineRequest
from .units import parse_bytes, parse_rate

NO_DRAFT = "none"


Target = Annotated[Path, typer.Option(help="Folder of the target model, or its config.json.")]
Draft = Annotated[str, typer.Option(help="The same of the draft model, or none.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantization = Annotated[str, typer.Option(help="none, int8, nf4 or fp4.")]
OfDraft = Annotated[str, typer.Option(help="The same for the draft.")]
Device = Annotated[str, typer.Option(help="A torch device, which need not be here.")]
Slots = Annotated[int, typer.Option(help="Sessions whose KV state is kept.")]
Rows = Annotated[int, typer.Option(help="Full rows of the largest step; 0 takes the slots.")]
Width = Annotated[int, typer.Option(help="Tokens a row of a verify step; a multiple of 8.")]
PrefillWidth = Annotated[int, typer.Option(help="Tokens a prefill step; a multiple of 8.")]
Context = Annotated[int, typer.Option(help="Longest session in tokens; 0 takes the model's.")]
Compile = Annotated[str, typer.Option(help="auto, on, max or off.")]
Memory = Annotated[str | None, typer.Option(help="What has to hold it, for example 80GiB.")]
Bandwidth = Annotated[str | None, typer.Option(help="Of the memory, for example 3.35TB/s.")]
Agreement = Annotated[float, typer.Option(help="Chance that a guess of the draft agrees.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Chart = Annotated[Path | None, typer.Option(help="Draw the plan into this PNG file.")]


def plan(
    target: Target = TARGET_FOLDER,
    draft: Draft = NO_DRAFT,
    dtype: Dtype = "auto",
    draft_dtype: OfDraft = "auto",
    quantization: Quantization = "none",
    draft_quantization: OfDraft = "none",
    device: Device = "cpu",
    slots: Slots = 8,
    rows: Rows = 0,
    width: Width = 8,
    prefill_width: PrefillWidth = 64,
    max_context_tokens: Context = 0,
    compile: Compile = "auto",
    memory: Memory = None,
    bandwidth: Bandwidth = None,
    agreement: Agreement = 0.8,
    as_json: Json = False,
    chart: Chart = None,
) -> None:
    """Plan memory and speed from configurations alone, before any weights are there."""
    settings = PlanSettings(
        target=target,
        request=EngineRequest(
            dtype=dtype,
            quantization=quantization,
            device=device,
            slots=slots,
            rows=rows,
            width=width,
            prefill_width=prefill_width,
            max_context_tokens=max_context_tokens,
            compile=compile,
        ),
        draft=None if draft == NO_DRAFT else Path(draft),
        draft_dtype=draft_dtype,
        draft_quantization=draft_quantization,
        memory_bytes=None if memory is None else parse_bytes(memory),
        bandwidth=None if bandwidth is None else parse_rate(bandwidth),
        agreement=agreement,
        chart=chart,
    )
    from .plan import make_plan
    from .report import as_object, print_plan

    made = make_plan(settings)
    if chart is not None:
        from .chart import draw_plan

        draw_plan(made, chart)
    if as_json:
        print(json.dumps(as_object(made)))
    else:
        print_plan(made)
