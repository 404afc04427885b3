"""More turns than the services can run: goodput beside the peak, and how the others are turned away.

The peak is the best of several numbers of clients that each wait for their answer. Then turns arrive at
multiples of the peak's rate, whoever else waits. Goodput counts the tokens of turns that finished.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import outrider

from ..speculation.errors import StartupError
from .arrivals import End
from .clients import Clients, OverloadSettings, Phase
from .fleet import FleetOptions, running_fleet
from .models import Models
from .prompts import Prompts

CLIENTS_PER_SLOT = (1, 2, 4)
Report = Callable[[str], None]


def table(phases: Sequence[Phase], peak: float) -> str:
    """The phases as a table in Markdown."""
    lines = [
        "| load | offered | finished | refused | without RetryInfo | failed | tokens/s | of peak |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for phase in phases:
        ends = [turn.end for turn in phase.turns]
        refusals = sum(turn.refusals for turn in phase.turns)
        without = sum(turn.refusals_without_delay for turn in phase.turns)
        rate = phase.load.tokens_per_second
        lines.append(
            f"| {phase.what} | {phase.offered} | {ends.count(End.FINISHED)} | {refusals} | {without} "
            f"| {ends.count(End.FAILED)} | {rate:.0f} | {rate / peak:.2f} |"
        )
    return "\n".join(lines)


def cpu_table(phases: Sequence[Phase]) -> str:
    """The processors that each process used, as a table in Markdown."""
    names = list(phases[0].cpu)
    lines = [f"| load | {' | '.join(names)} | latest arrival, ms |"]
    lines.append("|---|" + "---:|" * (len(names) + 1))
    for phase in phases:
        used = " | ".join(f"{phase.cpu[name]:.2f}" for name in names)
        lines.append(f"| {phase.what} | {used} | {1000 * phase.latest_seconds:.0f} |")
    return "\n".join(lines)


def problems(phases: Sequence[Phase]) -> list[str]:
    """What is not as promised; nothing where all is well. Speed is the table's."""
    found = []
    for phase in phases:
        found += [f"{phase.what}: {turn.failure}" for turn in phase.turns if turn.failure]
        without = sum(turn.refusals_without_delay for turn in phase.turns)
        if without:
            found.append(f"{phase.what}: {without} refusals without RetryInfo")
    return found


async def run_overload(
    settings: OverloadSettings, models: Models, report: Report
) -> tuple[list[Phase], float]:
    """All phases, and the peak in tokens a second. Raises StartupError."""
    needed = 1 + settings.prompt_tokens + settings.reply_tokens
    if needed > models.longest:
        raise StartupError(f"a session would hold {needed} tokens, the models {models.longest}")
    options = FleetOptions(
        models.target,
        models.draft,
        slots=settings.slots,
        context=max(needed, models.context_for(settings.reply_tokens)),
        target_options=(f"--queue={settings.queue}",),
    )
    report("overload: starting the services")
    async with (
        running_fleet(options) as fleet,
        # What a reply's resuming would mend is to be seen here.
        outrider.AsyncClient(fleet.address, timeout_ms=None, resume_ms=0) as client,
    ):
        asking = Clients(settings, fleet, client, Prompts.of(models.target))
        await asking.warm_up()
        phases = []
        for clients in (per_slot * settings.slots for per_slot in CLIENTS_PER_SLOT):
            report(f"overload: {clients} clients in turn")
            phases.append(await asking.closed(clients))
        best = max(phases, key=lambda phase: phase.load.tokens_per_second)
        rate = best.load.turns_per_second
        if not rate:
            raise StartupError("no turn finished in the window; give more seconds")
        plans = [(factor, False) for factor in settings.loads]
        for factor, retries in [*plans, (max(settings.loads), True)]:
            report(f"overload: {factor:g} times the peak's turns{', tried again' * retries}")
            phases.append(await asking.open(factor, rate, retries))
    return phases, best.load.tokens_per_second
