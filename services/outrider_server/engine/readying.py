"""Makes a runner ready to serve: every size of step is run, and compiled if at all; its bits are known.

Owns what is believed of an earlier start. Steps are compiled in one order, whether it is or not, since a
compiler may look at the first sizes that it meets. Recorded ones are compiled no more, and run as others do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from ..core.description import ShapeAudit, ShapeFinding
from ..core.progress import Progress, Report, Stage
from ..core.surroundings import Clock
from ..core.types import Draw, SamplingParams
from .audit import audit_shapes, audited_buckets, reference_digest
from .layout import Row
from .limits import StepLimits
from .machine import machine_facts
from .model.facts import ModelFacts
from .records import Records
from .starting import Start
from .step import StepRunner
from .step_costs import StepCosts, timed_sizes

RECORD = "audit"
"""The kind of record that an audit is kept as."""
GREEDY = Draw(SamplingParams(temperature=0.0), seed=0, generated_from=0)
SAMPLED = Draw(SamplingParams(temperature=1.0), seed=0, generated_from=0)
TIMED_STEPS = 3
"""Steps of each size that are timed, for the first plans."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What is known of a runner that is ready."""

    audit: ShapeAudit
    costs: StepCosts


def records_of(
    records: Records, loaded: ModelFacts, limits: StepLimits, compile_mode: str, attention: str
) -> Records:
    """The records of starts of this model, on this machine, in these shapes."""
    if records.folder is None:
        return records
    facts = machine_facts(loaded.device, os.environ)
    return replace(records, facts={**records.facts, **facts}).of(
        model=loaded.model_fingerprint,
        dtype=loaded.dtype,
        limits=limits,
        compile_mode=compile_mode,
        attention=attention,
    )


def make_ready(runner: StepRunner, reproducible: bool, start: Start, clock: Clock) -> Readiness:
    """Runs and audits a runner whose slots are all free. Leaves junk in the slots, and every slot greedy."""
    _first_steps(runner, audited_buckets(runner, reproducible), start.tell)
    records = start.records.of(
        reproducible=reproducible,
        compile_note=runner.compile_note,
        kernel_note=runner.kernel_note,
        kernel=runner.attention.kernel,
    )
    audit = _kept_audit(runner, reproducible, records, start.tell)
    if audit is None:
        audit = audit_shapes(runner, reproducible, start.tell)
        records.keep(RECORD, asdict(audit))
    _first_draws(runner, audit.row_buckets)
    return Readiness(audit, _timed(runner, audit.row_buckets, clock, start.tell))


def _first_steps(runner: StepRunner, buckets: Sequence[int], tell: Progress) -> None:
    """The largest first, then prefill, so that no turn pays for what a first one takes."""
    compiles = runner.compiled and not runner.layout.packed
    stage = Stage.COMPILING if compiles else Stage.WARMING
    limits = runner.limits
    for done, bucket in enumerate(reversed(buckets)):
        tell(Report(stage, done, len(buckets) + 1))
        runner.logits([Row(limits.slots, 0, (0,))], bucket)
    tell(Report(stage, len(buckets), len(buckets) + 1))
    tokens = min(limits.prefill_width, limits.max_context_tokens)
    runner.prefill(Row(limits.slots, 0, (0,) * tokens))


def _first_draws(runner: StepRunner, buckets: Sequence[int]) -> None:
    """Runs every bucket's sampling once."""
    runner.draws.write(0, SAMPLED)
    for bucket in buckets:
        runner.decide([Row(0, 0, (0,))] * bucket, bucket)
    for slot in range(runner.limits.slots + 1):
        runner.draws.write(slot, GREEDY)


def _timed(runner: StepRunner, buckets: Sequence[int], clock: Clock, tell: Progress) -> StepCosts:
    """The median time of a few steps of each size, so that one which waited for a core says nothing."""
    sizes = timed_sizes(runner.layout, buckets)
    timed = []
    for done, tokens in enumerate(sizes):
        tell(Report(Stage.TIMING, done, len(sizes)))
        timed.append(
            (tokens, median(_step_ms(runner, buckets, tokens, clock) for _ in range(TIMED_STEPS)))
        )
    return StepCosts(timed)


def _step_ms(runner: StepRunner, buckets: Sequence[int], tokens: int, clock: Clock) -> float:
    """Runs a step of so many tokens, in full rows as far as they go."""
    width = runner.limits.width
    bucket = next(size for size in buckets if size * width >= tokens)
    lengths = [min(width, tokens - begin) for begin in range(0, tokens, width)]
    rows = [Row(slot, 0, (0,) * length) for slot, length in enumerate(lengths)]
    started = clock()
    runner.decide(rows, bucket)
    return (clock() - started) * 1000


def _kept_audit(
    runner: StepRunner, reproducible: bool, records: Records, tell: Progress
) -> ShapeAudit | None:
    """What an earlier start found; None where there is none, or this one's logits have other bits."""
    audit = _read_audit(records.recall(RECORD))
    buckets = audited_buckets(runner, reproducible)
    if (
        audit is None
        or audit.reproducible != reproducible
        or not set(audit.row_buckets) <= set(buckets)
        or buckets[-1] not in audit.row_buckets
    ):
        return None
    tell(Report(Stage.COMPARING))
    return audit if reference_digest(runner) == audit.logits_digest else None


def _read_audit(outcome: Any) -> ShapeAudit | None:
    """The audit that a record holds, if it is one."""
    try:
        findings = tuple(ShapeFinding(**finding) for finding in outcome["findings"])
        buckets = tuple(int(bucket) for bucket in outcome["row_buckets"])
        return ShapeAudit(**{**outcome, "findings": findings, "row_buckets": buckets})
    except (TypeError, KeyError, ValueError):
        return None
