"""A run of the benchmark: suite after suite, then the report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import outrider
from outrider_server.core.errors import StartupError
from rich.console import Console

from .charts import draw_charts
from .decode import Report, run_decode
from .ending import cancel_at_sigterm
from .first_token import run_first_token
from .load import run_load
from .machine import machine_facts
from .models import Models, prepared_models
from .network import run_network
from .prefill import run_prefill
from .report import prepare_output, print_report, write_results
from .results import SuiteResult
from .settings import BenchSettings
from .step import run_step
from .turns import run_turns

Suite = Callable[[BenchSettings, Models, Report], Awaitable[SuiteResult]]

SUITES: dict[str, Suite] = {
    "decode": run_decode,
    "first-token": run_first_token,
    "load": run_load,
    "network": run_network,
    "prefill": run_prefill,
    "turns": run_turns,
    "step": run_step,
}


async def run_bench(settings: BenchSettings) -> int:
    """Runs the suites; returns 0 when all configurations of Outrider gave the same tokens, else 1.

    What is measured is written after each suite. SIGTERM ends it as SIGINT does: everything that it started
    is stopped, and CancelledError raised. Raises StartupError.
    """
    cancel_at_sigterm()
    prepare_output(settings.output)
    settings.peers.check_models(settings.target, settings.draft)
    models = prepared_models(settings.target, settings.draft, settings.widen)
    facts = machine_facts()
    try:
        results = await _run_suites(settings, models, facts)
    except outrider.OutriderError as error:
        raise StartupError(f"a turn failed: {error}") from error
    draw_charts(settings.output / "charts", results, models.label)
    print_report(Console(highlight=False), results, models.label, facts)
    return 1 if any(result.differences for result in results) else 0


async def _run_suites(
    settings: BenchSettings, models: Models, facts: dict[str, Any]
) -> list[SuiteResult]:
    report = Console(stderr=True, highlight=False).print
    results: list[SuiteResult] = []
    for name in settings.suites:
        results.append(await SUITES[name](settings, models, report))
        write_results(settings.output, results, models.label, facts)
    return results
