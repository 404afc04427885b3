"""The plan on the console and as one JSON object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .types import EnginePlan, Fit, Plan, Roofline, WeightBytes
from .units import format_bytes

Cell = Callable[[EnginePlan], str]


def as_object(plan: Plan) -> dict[str, Any]:
    """Every number of the plan, for `json.dumps`. Bytes are integers, times milliseconds; unknown is null."""
    return {
        "target": _engine_object(plan.target),
        "draft": None if plan.draft is None else _engine_object(plan.draft),
        "memory_bytes": plan.memory_bytes,
        "bandwidth_bytes_per_second": plan.bandwidth,
        "agreement": plan.agreement,
        "target_with_draft_beside": None if plan.beside is None else asdict(plan.beside),
        "break_even_round_trip_ms": plan.break_even_ms,
    }


def _engine_object(plan: EnginePlan) -> dict[str, Any]:
    sizes, memory = plan.sizes, plan.memory
    return {
        "model": sizes.name,
        "architecture": sizes.architecture,
        "parameters": sizes.parameters,
        "layers": len(sizes.layers),
        "max_positions": sizes.max_positions,
        "notes": list(sizes.notes),
        "engine": asdict(plan.shape),
        "weights_by_precision": {
            name: _weights_object(weights) for name, weights in plan.weights_by_precision.items()
        },
        "weights": _weights_object(memory.weights),
        "kernel_bytes": memory.kernel_bytes,
        "cache_token_bytes": plan.cache_token_bytes,
        "cache_bytes": memory.cache_bytes,
        "table_bytes": memory.table_bytes,
        "workspace_bytes": memory.workspace_bytes,
        "total_bytes": memory.total_bytes,
        "fit": None if plan.fit is None else asdict(plan.fit),
        "roofline": None if plan.roofline is None else asdict(plan.roofline),
    }


def _weights_object(weights: WeightBytes) -> dict[str, int]:
    return asdict(weights) | {"total_bytes": weights.total_bytes}


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """The plan as a table, and what to know about it below."""
    console = console or Console()
    console.print(table_of(plan))
    for engine in _engines(plan):
        for note in engine.sizes.notes:
            console.print(f"{escape(engine.sizes.name)}: {escape(note)}.", highlight=False)


def table_of(plan: Plan) -> Table:
    """One table: a column for the target, one for a draft."""
    engines = _engines(plan)
    title = " and ".join(f"{engine.sizes.name} ({_shape(engine)})" for engine in engines)
    table = Table(title=escape(f"Outrider plan. {title}"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("what")
    for name in ("target", "draft")[: len(engines)]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note")
    for section in (_weight_rows(plan), _memory_rows(plan), _fit_rows(plan), _speed_rows(plan)):
        for what, cell, note in section:
            cells = [cell(engine) for engine in engines]
            table.add_row(what, *(escape(text) for text in cells), escape(note))
        if section:
            table.add_section()
    return table


def _engines(plan: Plan) -> list[EnginePlan]:
    return [plan.target] if plan.draft is None else [plan.target, plan.draft]


def _shape(engine: EnginePlan) -> str:
    shape = engine.shape
    precision = shape.dtype if shape.quantization == "none" else shape.quantization
    return f"{precision}, {shape.slots} slots of {shape.context_tokens:,} tokens"


def _weight_rows(plan: Plan) -> list[tuple[str, Cell, str]]:
    def in_precision(name: str) -> Cell:
        return lambda engine: format_bytes(engine.weights_by_precision[name].total_bytes)

    return [
        ("parameters", lambda engine: f"{engine.sizes.parameters:,}", "tied ones counted once"),
        *(
            (f"weights in {name}", in_precision(name), _kept_note(plan, name))
            for name in plan.target.weights_by_precision
        ),
    ]


def _kept_note(plan: Plan, name: str) -> str:
    """What of a quantized model is not quantized."""
    if name not in ("int8", "nf4", "fp4"):
        return ""
    parts = []
    for engine in _engines(plan):
        weights = engine.weights_by_precision[name]
        parts.append(format_bytes(weights.kept_bytes))
    return f"{' and '.join(parts)} of it in {plan.target.shape.dtype}"


def _memory_rows(plan: Plan) -> list[tuple[str, Cell, str]]:
    return [
        (
            "weights, as planned",
            lambda engine: format_bytes(
                engine.memory.weights.total_bytes + engine.memory.kernel_bytes
            ),
            "packed for the CPU kernels" if plan.target.shape.packed else "",
        ),
        ("cache of a token", lambda engine: format_bytes(engine.cache_token_bytes), "all layers"),
        (
            "cache",
            lambda engine: format_bytes(engine.memory.cache_bytes),
            "one slot more than asked, and room for the longest row",
        ),
        ("history and tables", lambda engine: format_bytes(engine.memory.table_bytes), ""),
        (
            "workspace of a step",
            lambda engine: format_bytes(engine.memory.workspace_bytes),
            "estimate of the most that a request can ask for",
        ),
        ("total", lambda engine: format_bytes(engine.memory.total_bytes), ""),
    ]


def _fit_rows(plan: Plan) -> list[tuple[str, Cell, str]]:
    if plan.memory_bytes is None:
        return []
    held = format_bytes(plan.memory_bytes)

    def row(what: str, read: Callable[[Fit], str], note: str) -> tuple[str, Cell, str]:
        return what, lambda engine: read(engine.fit) if engine.fit else "", note

    rows = [
        row(f"fits into {held}", lambda fit: "yes" if fit.fits else "no", "alone"),
        row("most slots", lambda fit: f"{fit.largest_slots:,}", "alone, at this context"),
        row(
            "longest context",
            lambda fit: f"{fit.largest_context_tokens:,}",
            "alone, with these slots",
        ),
    ]
    beside = plan.beside
    if beside is not None:

        def of_target(text: str) -> Cell:
            return lambda engine: text if engine is plan.target else ""

        note = "target, draft on the same device"
        rows += [
            (f"fits into {held}", of_target("yes" if beside.fits else "no"), note),
            ("most slots", of_target(f"{beside.largest_slots:,}"), note),
            ("longest context", of_target(f"{beside.largest_context_tokens:,}"), note),
        ]
    return rows


def _speed_rows(plan: Plan) -> list[tuple[str, Cell, str]]:
    if plan.bandwidth is None:
        return []

    def row(what: str, read: Callable[[Roofline], str], note: str) -> tuple[str, Cell, str]:
        return what, lambda engine: read(engine.roofline) if engine.roofline else "", note

    rows = [
        row("shortest step", lambda line: f"{line.step_ms:,.3f} ms", "one session, full context"),
        row(
            "most tokens/s",
            lambda line: f"{line.tokens_per_second:,.1f}",
            "one session, no speculation",
        ),
        row(
            "most tokens/s",
            lambda line: f"{line.all_slots_tokens_per_second:,.1f}",
            "all slots together, no speculation",
        ),
    ]
    if plan.draft is not None:
        found = plan.break_even_ms
        text = "never" if found is None else f"{found:,.2f} ms"
        rows.append(
            (
                "draft pays up to",
                lambda engine: "" if engine is plan.target else text,
                f"round trip, at an agreement of {plan.agreement:g}",
            )
        )
    return rows
