"""The shape audit: which shapes of a step give the same bits for the same tokens, on this machine.

The reference is the largest bucket, which can carry any batch; a smaller one is used only if it agrees with
the reference bit for bit, in every variation. Varied are the rows of a bucket, a row's index among others,
its neighbours and how far these are, the chunking of the tokens, the column of a token in the step, and
prefill against verify steps. Where a model computes from a session's length, a text across the border of its
rule is read in all these ways too.

Recorded steps have no shape but the tokens that they read, and their layers of one kind are the same
instructions: the first layers are read in all these ways, and every number that they compute is compared; the
whole model is read in a few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..core.description import ShapeAudit, ShapeFinding
from ..core.progress import Progress, Report, Stage, silent
from .layout import Row
from .passages import (
    EVERY_LENGTH,
    Passage,
    Step,
    Way,
    among_neighbours,
    passages_of,
    read,
    ways_of,
)
from .step import StepRunner

WHOLE_STEPS = 3
"""So many full rows of a text are read by the whole of a recorded model."""


def audited_buckets(runner: StepRunner, reproducible: bool) -> tuple[int, ...]:
    """The buckets that may be used where they agree, ascending; the last one is the reference."""
    return runner.limits.row_buckets[-1:] if reproducible else runner.limits.row_buckets


def audit_shapes(runner: StepRunner, reproducible: bool, tell: Progress = silent) -> ShapeAudit:
    """Audits a runner whose slots are all free. Leaves junk in the slots, which nothing can attend to."""
    buckets = audited_buckets(runner, reproducible)
    largest = buckets[-1]
    found: dict[int, list[ShapeFinding]] = {bucket: [] for bucket in buckets}
    by_prefill = []
    passages = passages_of(runner)
    step = runner.excerpt() if runner.layout.packed else runner.logits
    total, done = len(passages) * (len(buckets) + 1), 0
    for passage in passages:
        reference = read(runner, step, passage, largest)
        for bucket in buckets:
            tell(Report(Stage.AUDITING, done, total))
            ways = _ways(runner, bucket, largest)
            found[bucket] += _findings(runner, step, passage, bucket, ways, reference)
            done += 1
        tell(Report(Stage.AUDITING, done, total))
        done += 1
        if not passage.all_layers:
            continue
        if runner.layout.packed:
            passage = _for_all_layers(runner, passage)
            reference = read(runner, runner.logits, passage, largest)
            found[largest] += _of_all_layers(runner, passage, largest, reference)
        by_prefill.append(_audit_prefill(runner, passage, largest, reference))
    usable = [
        bucket
        for bucket, findings in found.items()
        if bucket == largest or all(finding.identical for finding in findings)
    ]
    by_bucket = [
        replace(finding, in_use=bucket in usable)
        for bucket, findings in found.items()
        for finding in findings
    ]
    return ShapeAudit(reproducible, tuple(usable), (*by_bucket, *by_prefill), _digest(reference))


def reference_digest(runner: StepRunner) -> str:
    """What an audit of this runner would have for `logits_digest`: a single reading."""
    passage = passages_of(runner)[-1]
    if runner.layout.packed:
        passage = _for_all_layers(runner, passage)
    return _digest(read(runner, runner.logits, passage, runner.limits.row_buckets[-1]))


def _digest(logits: torch.Tensor) -> str:
    values = logits.to(torch.float32).cpu().contiguous().numpy()
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()


def _for_all_layers(runner: StepRunner, passage: Passage) -> Passage:
    """What all layers of a recorded model read of a passage."""
    return passage.first(WHOLE_STEPS * runner.limits.width)


def _ways(runner: StepRunner, bucket: int, largest: int) -> list[Way]:
    """How a passage is read through a bucket. Rows alone are the same recorded steps in each."""
    again = runner.layout.packed and bucket != largest
    return [way for way in ways_of(bucket) if not (again and way.chunked)]


def _of_all_layers(
    runner: StepRunner, passage: Passage, largest: int, reference: torch.Tensor
) -> list[ShapeFinding]:
    ways = [among_neighbours(largest), EVERY_LENGTH]
    named = [replace(way, name=f"all layers, {way.name}") for way in ways]
    return _findings(runner, runner.logits, passage, largest, named, reference)


def _findings(
    runner: StepRunner,
    step: Step,
    passage: Passage,
    bucket: int,
    ways: Sequence[Way],
    reference: torch.Tensor,
) -> list[ShapeFinding]:
    width = runner.limits.width
    return [
        _finding(
            bucket,
            width,
            way.name + passage.name,
            read(runner, step, passage, bucket, way),
            reference,
        )
        for way in ways
    ]


def _audit_prefill(
    runner: StepRunner, passage: Passage, bucket: int, reference: torch.Tensor
) -> ShapeFinding:
    """Reads the first half by prefill and the rest by verify steps."""
    half, width = len(passage.tokens) // 2, runner.limits.prefill_width
    for begin in range(0, half, width):
        tokens = passage.tokens[begin : min(begin + width, half)]
        runner.prefill(Row(passage.slot or 0, passage.start + begin, tokens))
    got = read(runner, runner.logits, passage.after(half), bucket)
    return _finding(1, width, f"prefill before verify{passage.name}", got, reference[half:])


def _finding(
    rows: int, width: int, variation: str, got: torch.Tensor, reference: torch.Tensor
) -> ShapeFinding:
    identical = torch.equal(got, reference)
    difference = 0.0 if identical else float((got - reference).abs().max())
    return ShapeFinding(rows, width, variation, identical, difference, in_use=True)
