"""The shape audit: which shapes of a step give the same bits for the same tokens, on this machine.

The reference is the largest bucket, which can carry any batch; a smaller one is used only if it agrees with
the reference bit for bit, in every variation. Recorded steps have no shape but the tokens that they read:
their buckets are bounds, and are read in the same ways. Varied are the rows of a bucket, a row's index among
others, its neighbours and how far these are, the chunking of the tokens, the column of a token in the step,
and prefill against verify steps. Where a model computes from a session's length, a text across the border of
its rule is read in all these ways too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain, repeat

import torch

from ..core.description import ShapeAudit, ShapeFinding
from ..core.progress import Progress, Report, Stage, silent
from .layout import Row
from .step import StepRunner

AUDIT_TOKENS = 40
AUDIT_STEPS = 8
"""The text has no more than so many full rows: where rows are narrow it is shorter."""
LONE_TOKENS = 4
"""So many steps of one token are audited, before longer ones."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that is read in several ways: tokens from a position on."""

    tokens: tuple[int, ...]
    start: int = 0
    slot: int | None = None
    """Where it is read; None follows the row."""
    name: str = ""

    def after(self, count: int) -> Passage:
        """Without its first tokens."""
        return replace(self, tokens=self.tokens[count:], start=self.start + count)


def _idle(runner: StepRunner, slot: int, position: int) -> Row:
    """A neighbour that reads a single token."""
    del runner, position
    return Row(slot, 0, (0,))


def _busy(runner: StepRunner, slot: int, position: int) -> Row:
    """Another text at another position."""
    return Row(slot, max(0, position - 5 * slot), _other_text(runner, slot))


def _longest(runner: StepRunner, slot: int, position: int) -> Row:
    """The end of a session that fills its context, and was read at that length."""
    del position
    longest, tokens = runner.limits.max_context_tokens, _other_text(runner, slot)
    return Row(slot, max(0, longest - len(tokens)), tokens, reading=longest)


def _other_text(runner: StepRunner, slot: int) -> tuple[int, ...]:
    width = runner.limits.width
    return tuple((31 * slot + 17 * k) % runner.vocabulary_size for k in range(width))


Neighbour = Callable[[StepRunner, int, int], Row]
"""Makes the row of a slot beside one that reads at a position."""


def audited_buckets(runner: StepRunner, reproducible: bool) -> tuple[int, ...]:
    """The buckets that may be used where they agree, ascending; the last one is the reference."""
    return runner.limits.row_buckets[-1:] if reproducible else runner.limits.row_buckets


def audit_shapes(runner: StepRunner, reproducible: bool, tell: Progress = silent) -> ShapeAudit:
    """Audits a runner whose slots are all free. Leaves junk in the slots, which nothing can attend to."""
    buckets = audited_buckets(runner, reproducible)
    largest = buckets[-1]
    found: dict[int, list[ShapeFinding]] = {bucket: [] for bucket in buckets}
    by_prefill = []
    passages = _passages(runner)
    total, done = len(passages) * (len(buckets) + 1), 0
    for passage in passages:
        reference = _read(runner, passage, largest, row=0)
        for bucket in buckets:
            tell(Report(Stage.AUDITING, done, total))
            found[bucket] += _audit_bucket(runner, passage, bucket, reference)
            done += 1
        tell(Report(Stage.AUDITING, done, total))
        by_prefill.append(_audit_prefill(runner, passage, largest, reference))
        done += 1
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
    return _digest(_read(runner, _passages(runner)[-1], runner.limits.row_buckets[-1], row=0))


def _digest(logits: torch.Tensor) -> str:
    values = logits.to(torch.float32).cpu().contiguous().numpy()
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()


def _passages(runner: StepRunner) -> list[Passage]:
    """A text from the first position on, and before it one across the border of the model's rule of lengths.

    That one has a slot that nothing else was read into yet, so that the same stands before it every time.
    """
    limits, border = runner.limits, runner.length_rule.border
    length = min(AUDIT_TOKENS, AUDIT_STEPS * limits.width, limits.max_context_tokens)
    tokens = tuple((7919 * (index + 1)) % runner.vocabulary_size for index in range(length))
    passages = [Passage(tokens)]
    if border < limits.max_context_tokens:
        start = max(0, min(border - length // 2, limits.max_context_tokens - length))
        passages.insert(0, Passage(tokens, start, limits.slots - 1, f", across {border} tokens"))
    return passages


def _audit_bucket(
    runner: StepRunner, passage: Passage, bucket: int, reference: torch.Tensor
) -> list[ShapeFinding]:
    width, last = runner.limits.width, bucket - 1
    readings = {"full rows": _read(runner, passage, bucket, row=0)}
    if bucket > 1:
        readings |= {
            f"row {last} after short rows": _read(runner, passage, bucket, row=last),
            f"row {last} among neighbours": _read(runner, passage, bucket, last, _busy),
            f"row {last} beside the longest": _read(runner, passage, bucket, last, _longest),
        }
    readings["steps of every length"] = _read(
        runner, passage, bucket, row=0, lengths=_lengths(width)
    )
    return [
        _finding(bucket, width, name + passage.name, got, reference)
        for name, got in readings.items()
    ]


def _audit_prefill(
    runner: StepRunner, passage: Passage, bucket: int, reference: torch.Tensor
) -> ShapeFinding:
    """Reads the first half by prefill and the rest by verify steps."""
    half, width = len(passage.tokens) // 2, runner.limits.prefill_width
    for begin in range(0, half, width):
        tokens = passage.tokens[begin : min(begin + width, half)]
        runner.prefill(Row(passage.slot or 0, passage.start + begin, tokens))
    got = _read(runner, passage.after(half), bucket, row=0)
    return _finding(1, width, f"prefill before verify{passage.name}", got, reference[half:])


def _read(
    runner: StepRunner,
    passage: Passage,
    bucket: int,
    row: int,
    neighbour: Neighbour = _idle,
    lengths: Iterable[int] = (),
) -> torch.Tensor:
    """Reads a passage through one bucket at one row, by full rows after those of these lengths; returns its
    logits [T, V]."""
    slot = row if passage.slot is None else passage.slot
    sizes = chain(lengths, repeat(runner.limits.width))
    pieces, begin = [], 0
    while begin < len(passage.tokens):
        position, size = passage.start + begin, next(sizes)
        rows = [neighbour(runner, index, position) for index in range(row)]
        rows.append(Row(slot, position, passage.tokens[begin : begin + size]))
        pieces.append(runner.logits(rows, bucket)[row].clone())
        begin += size
    return torch.cat(pieces)


def _lengths(width: int) -> Iterable[int]:
    """One token a few times, then one more each time, up to the width."""
    return chain(repeat(1, LONE_TOKENS), range(2, width))


def _finding(
    rows: int, width: int, variation: str, got: torch.Tensor, reference: torch.Tensor
) -> ShapeFinding:
    identical = torch.equal(got, reference)
    difference = 0.0 if identical else float((got - reference).abs().max())
    return ShapeFinding(rows, width, variation, identical, difference, in_use=True)
