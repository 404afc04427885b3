"""The shape audit: which shapes of a step give the same bits for the same tokens, on this machine.

Runs once at start-up, and thereby warms every bucket. The reference is the largest bucket, which can carry
any batch; a smaller one is used only if it agrees with the reference bit for bit, in every variation.
Varied are the rows of a bucket, a row's index among others, its neighbours, the chunking of the tokens, the
column of a token in the step, and prefill against verify steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..speculation.description import ShapeAudit, ShapeFinding
from ..speculation.types import Draw, SamplingParams
from .layout import Row
from .step import StepRunner

AUDIT_TOKENS = 40
GREEDY = Draw(SamplingParams(temperature=0.0), seed=0, generated_from=0)
SAMPLED = Draw(SamplingParams(temperature=1.0), seed=0, generated_from=0)


def audit_shapes(runner: StepRunner, reproducible: bool) -> ShapeAudit:
    """Audits a runner whose slots are all free. Leaves junk in the slots, which nothing can attend to."""
    for slot in range(runner.limits.slots + 1):
        runner.draws.write(slot, GREEDY)
    buckets = runner.limits.row_buckets
    audited = buckets[-1:] if reproducible else buckets
    length = min(AUDIT_TOKENS, runner.limits.max_context_tokens)
    tokens = tuple((7919 * (index + 1)) % runner.vocabulary_size for index in range(length))
    reference = _read(runner, tokens, buckets[-1], row=0)
    findings: list[ShapeFinding] = []
    usable: list[int] = []
    for bucket in audited:
        of_bucket = _audit_bucket(runner, tokens, bucket, reference)
        good = bucket == buckets[-1] or all(finding.identical for finding in of_bucket)
        usable += [bucket] if good else []
        findings += [replace(finding, in_use=good) for finding in of_bucket]
    findings.append(_audit_prefill(runner, tokens, usable[0], reference))
    _warm_draws(runner, usable)
    return ShapeAudit(reproducible, tuple(usable), tuple(findings))


def _audit_bucket(
    runner: StepRunner, tokens: tuple[int, ...], bucket: int, reference: torch.Tensor
) -> list[ShapeFinding]:
    width = runner.limits.width
    readings = {"full rows": _read(runner, tokens, bucket, row=0)}
    if bucket > 1:
        readings[f"row {bucket - 1} after short rows"] = _read(
            runner, tokens, bucket, row=bucket - 1
        )
        readings[f"row {bucket - 1} among neighbours"] = _read(
            runner, tokens, bucket, row=bucket - 1, neighbours=True
        )
    readings["one token a step"] = _read(runner, tokens, bucket, row=0, chunk=1)
    readings["three tokens a step"] = _read(runner, tokens, bucket, row=0, chunk=3)
    return [_finding(bucket, width, name, got, reference) for name, got in readings.items()]


def _audit_prefill(
    runner: StepRunner, tokens: tuple[int, ...], bucket: int, reference: torch.Tensor
) -> ShapeFinding:
    """Reads the first half by prefill and the rest by verify steps."""
    half, width = len(tokens) // 2, runner.limits.prefill_width
    for start in range(0, half, width):
        runner.prefill(Row(0, start, tokens[start : min(start + width, half)]))
    got = _read(runner, tokens, bucket, row=0, start=half)
    return _finding(1, width, "prefill before verify", got, reference[half:])


def _read(
    runner: StepRunner,
    tokens: tuple[int, ...],
    bucket: int,
    row: int,
    neighbours: bool = False,
    chunk: int | None = None,
    start: int = 0,
) -> torch.Tensor:
    """Reads tokens[start:] through one bucket at one row; returns their logits [T, V]."""
    size = min(chunk or runner.limits.width, runner.limits.width)
    pieces = []
    for position in range(start, len(tokens), size):
        part = tokens[position : position + size]
        rows = [_filler(runner, index, position, neighbours) for index in range(row)]
        rows.append(Row(row, position, part))
        pieces.append(runner.logits(rows, bucket)[row].clone())
    return torch.cat(pieces)


def _filler(runner: StepRunner, slot: int, position: int, busy: bool) -> Row:
    """A neighbour: another text at another position where `busy`, else a single token."""
    if not busy:
        return Row(slot, 0, (0,))
    tokens = tuple(
        (31 * slot + 17 * k) % runner.vocabulary_size for k in range(runner.limits.width)
    )
    return Row(slot, max(0, position - 5 * slot), tokens)


def _finding(
    rows: int, width: int, variation: str, got: torch.Tensor, reference: torch.Tensor
) -> ShapeFinding:
    identical = torch.equal(got, reference)
    difference = 0.0 if identical else float((got - reference).abs().max())
    return ShapeFinding(rows, width, variation, identical, difference, in_use=True)


def _warm_draws(runner: StepRunner, buckets: Sequence[int]) -> None:
    """Runs every bucket's sampling once, so that no turn pays for its compilation."""
    runner.draws.write(0, SAMPLED)
    for bucket in buckets:
        runner.decide([Row(0, 0, (0,))] * bucket, bucket)
    runner.draws.write(0, GREEDY)
