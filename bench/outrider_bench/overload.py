"""More turns than the services can run: goodput beside the peak, and how the others are turned away.

The peak is the best of several numbers of clients that each wait for their answer. Then turns arrive at
multiples of the peak's rate, whoever else waits. Goodput counts the tokens of turns that finished. All of it
is run several times, and each goodput compared with the peak of the same repeat: machines have their moods.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import outrider
from outrider_server.core.errors import StartupError

from .arrivals import End
from .clients import Clients, OverloadSettings, Phase
from .fleet import FleetOptions, running_fleet
from .models import Models
from .prompts import Prompts

CLIENTS_PER_SLOT = (1, 2, 4)
Report = Callable[[str], None]


class Series:
    """The phases of a run: of each load one a repeat, in the order in which they were run."""

    def __init__(self) -> None:
        self.phases: dict[str, list[Phase]] = {}

    def add(self, phase: Phase) -> None:
        """One more repeat of a load."""
        self.phases.setdefault(phase.what, []).append(phase)

    def goodput(self, what: str) -> float:
        """Tokens a second under a load, the median of its repeats."""
        return statistics.median(phase.load.tokens_per_second for phase in self.phases[what])

    @property
    def peak(self) -> str:
        """The load of clients in turn that brings most."""
        in_turn = [what for what, phases in self.phases.items() if not phases[0].arrives]
        return max(in_turn, key=self.goodput)

    def of_peak(self, what: str) -> list[float]:
        """Each repeat's goodput over that of the peak in the same repeat."""
        pairs = zip(self.phases[what], self.phases[self.peak], strict=True)
        return [one.load.tokens_per_second / peak.load.tokens_per_second for one, peak in pairs]


def table(series: Series) -> str:
    """The loads as a table in Markdown: sums of the repeats, medians of speeds, least and most of ratios."""
    lines = [
        "| load | offered | finished | refused | without RetryInfo | failed | tokens/s | of peak |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for what, phases in series.phases.items():
        turns = [turn for phase in phases for turn in phase.turns]
        ends = [turn.end for turn in turns]
        refusals = sum(turn.refusals for turn in turns)
        without = sum(turn.refusals_without_delay for turn in turns)
        ratios = series.of_peak(what)
        lines.append(
            f"| {what} | {len(turns)} | {ends.count(End.FINISHED)} "
            f"| {refusals} | {without} | {ends.count(End.FAILED)} | {series.goodput(what):.0f} "
            f"| {statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}] |"
        )
    return "\n".join(lines)


def cpu_table(series: Series) -> str:
    """The processors that each process used, medians of the repeats, as a table in Markdown."""
    names = list(next(iter(series.phases.values()))[0].cpu)
    lines = [f"| load | {' | '.join(names)} | latest arrival, ms |"]
    lines.append("|---|" + "---:|" * (len(names) + 1))
    for what, phases in series.phases.items():
        used = (statistics.median(phase.cpu[name] for phase in phases) for name in names)
        latest = max(phase.latest_seconds for phase in phases)
        cells = " | ".join(f"{value:.2f}" for value in used)
        lines.append(f"| {what} | {cells} | {1000 * latest:.0f} |")
    return "\n".join(lines)


def problems(series: Series) -> list[str]:
    """What is not as promised; nothing where all is well. Speed is the table's."""
    found = []
    for phase in (phase for phases in series.phases.values() for phase in phases):
        found += [f"{phase.what}: {turn.failure}" for turn in phase.turns if turn.failure]
        without = sum(turn.refusals_without_delay for turn in phase.turns)
        if without:
            found.append(f"{phase.what}: {without} refusals without RetryInfo")
    return found


async def run_overload(settings: OverloadSettings, models: Models, report: Report) -> Series:
    """All phases. Raises StartupError."""
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
        series, rate = Series(), 0.0
        for repeat in range(settings.repeats):
            report(f"overload: repeat {repeat + 1} of {settings.repeats}")
            rate = await _repeat(settings, asking, series, rate)
    return series


async def _repeat(
    settings: OverloadSettings, asking: Clients, series: Series, rate: float
) -> float:
    """Every load once. Returns the peak's turns a second: those of the first repeat are every repeat's."""
    for per_slot in CLIENTS_PER_SLOT:
        series.add(await asking.closed(per_slot * settings.slots))
    rate = rate or series.phases[series.peak][0].load.turns_per_second
    if not rate:
        raise StartupError("no turn finished in the window; give more seconds")
    plans = [(factor, False) for factor in settings.loads]
    for factor, retries in [*plans, (max(settings.loads), True)]:
        series.add(await asking.open(factor, rate, retries))
    return rate
