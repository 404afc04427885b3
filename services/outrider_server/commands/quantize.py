"""The command `outrider-server quantize`: options in, settings out. Imports the rest only when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..models import TARGET_FOLDER
from ..quantization.settings import METHODS, QuantizeSettings


def quantize(
    model: Annotated[Path, typer.Option(help="Folder of the model.")] = TARGET_FOLDER,
    text: Annotated[
        Path | None,
        typer.Option(help="UTF-8 text that it never trained on; the bundled pair needs none."),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(help="Folder of the model to draft for; the unquantized model by default."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help=f"Comma-separated, of {', '.join(METHODS)}; all by default.")
    ] = ",".join(METHODS),
    tokens: Annotated[int, typer.Option(help="The most tokens of the text that are read.")] = 16384,
    dtype: Annotated[
        str, typer.Option(help="auto keeps the checkpoint's own; float32, bfloat16 or float16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="A torch device, for example cpu or cuda:0.")] = "cpu",
    output: Annotated[
        Path, typer.Option(help="Folder for report.md, report.json and histograms.")
    ] = Path("outrider-quantize"),
) -> None:
    """Report what quantizing a model saves and what it costs."""
    names = [name.strip() for name in methods.split(",")]
    settings = QuantizeSettings(
        model=model,
        text=text,
        target=target,
        methods=tuple(dict.fromkeys(name for name in names if name)),
        tokens=tokens,
        dtype=dtype,
        device=device,
        output=output,
    )
    from ..quantization.run import run_quantize

    try:
        run_quantize(settings)
    except KeyboardInterrupt:
        sys.exit(130)
