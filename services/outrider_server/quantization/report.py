"""The findings in words: one Markdown page, the same as JSON, and a table for the console."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from .findings import ORIGINAL, Findings, Row
from .formats import number_formats
from .mixed import OUTLIER_THRESHOLD
from .reading import TEMPERATURES

PAGE = "report.md"
DATA = "report.json"
EXPLANATION = f"""\
All methods quantize the same weights: those of the linear layers, without embeddings and output head. Bytes
are those of all weights, with scales, and with what stays as it was. `absmax` and `zero-point` have one scale
a matrix, `-row` one scale an output; their layers compute with the weights turned back into the model's
dtype. `int8` (LLM.int8()), `nf4` and `fp4` are those of bitsandbytes, with its own arithmetic: `int8`
quantizes activations too, but for columns with an activation of at least {OUTLIER_THRESHOLD:g}.

Perplexity is per token. *Layer error* is the mean over the layers. The error of a layer is the Frobenius norm
of the difference of its weights over that of the original weights; a layer that bitsandbytes leaves as it is
has none. *Same greedy token*: the share of positions at which the quantized and the unquantized model prefer
the same token. *Agrees at T*: the share at which it draws the token that the target draws at temperature T,
each from its own distribution with the same Gumbel noise. That is the chance that its guess is accepted, on
this text; on replies of the target's own it may be another.
"""


def write_report(folder: Path, findings: Findings) -> Path:
    """Writes the page and the data; returns the page's path."""
    (folder / DATA).write_text(json.dumps(findings.as_json(), indent=1) + "\n", encoding="utf-8")
    page = folder / PAGE
    page.write_text("\n".join(_page(findings)) + "\n", encoding="utf-8")
    return page


def console_table(findings: Findings) -> Table:
    """The page's first table."""
    table = Table(title=f"Quantization of {escape(findings.model)}", box=SIMPLE_HEAD, padding=0)
    for index, heading in enumerate(_headings(findings)):
        table.add_column(heading, justify="right" if index else "left")
    for row in findings.rows:
        table.add_row(*map(escape, _cells(row, findings)))
    return table


def _page(findings: Findings) -> Iterator[str]:
    yield f"# Quantization of {findings.model}"
    yield ""
    yield (
        f"Read: {findings.text_tokens} tokens in {findings.windows} windows, {findings.positions} of "
        f"them predicted, from {findings.text}. Dtype {findings.dtype}."
    )
    yield (
        "The target, whose tokens a draft must guess, is "
        f"{findings.target or 'the unquantized model itself'}. A share of {findings.positions} "
        f"positions has a standard error of at most {50 / findings.positions**0.5:.2f} %."
    )
    yield ""
    yield findings.machine
    yield ""
    yield from _table(_headings(findings), [_cells(row, findings) for row in findings.rows])
    yield ""
    yield EXPLANATION
    yield "## Layers"
    yield ""
    yield (
        "Outlier columns: inputs of the layer, of the unquantized model, that reached a magnitude of "
        f"{OUTLIER_THRESHOLD:g} somewhere in the text. Then the error of each method."
    )
    yield ""
    methods = [row for row in findings.rows if row.method != ORIGINAL]
    headings = ("layer", "outputs x inputs", "outlier columns", *(row.method for row in methods))
    yield from _table(headings, list(_layer_cells(findings, methods)))
    yield ""
    yield "## Weights before and after"
    for row in methods:
        yield from ("", f"![{row.method}]({row.histogram})")
    yield from ("", "## Number formats", "")
    yield from _formats_table()


def _headings(findings: Findings) -> list[str]:
    temperatures = _temperatures(findings)
    fixed = ["method", "bytes", "of original", "perplexity", "layer error", "same greedy token"]
    return fixed + [f"agrees at {temperature:g}" for temperature in temperatures]


def _cells(row: Row, findings: Findings) -> list[str]:
    return [
        row.method,
        str(row.size_bytes),
        _share(row.size_bytes / findings.rows[0].size_bytes),
        "no number" if row.perplexity is None else f"{row.perplexity:.3f}",
        f"{100 * row.mean_error:.2f} %",
        _share(row.same_as_original),
        *(_share(row.agreement[temperature]) for temperature in _temperatures(findings)),
    ]


def _temperatures(findings: Findings) -> tuple[float, ...]:
    """Greedy agreement with the model itself stands in a column of its own already."""
    return TEMPERATURES if findings.target is not None else TEMPERATURES[1:]


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _layer_cells(findings: Findings, methods: Sequence[Row]) -> Iterator[list[str]]:
    for name, layer in findings.layers.items():
        errors = [f"{100 * row.errors[name]:.2f} %" for row in methods]
        yield [name, f"{layer.outputs} x {layer.inputs}", str(layer.outlier_columns), *errors]


def _formats_table() -> Iterator[str]:
    headings = ("format", "sign bits", "exponent bits", "mantissa bits", "largest")
    rows = [
        [
            entry.name,
            str(entry.sign_bits),
            str(entry.exponent_bits),
            str(entry.mantissa_bits),
            f"{entry.largest:.5g}",
        ]
        for entry in number_formats()
    ]
    yield from _table(headings, rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|---|{'---:|' * (len(headings) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
