"""The scheduler: of all that is ready, what the device runs next, or how long it waits for more.

Owns whose turn it is and who is away. Decides alone: it runs nothing, waits for nothing and reads no clock;
times are seconds on the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ...core.errors import OutriderError
from ..layout import RowResult
from ..slots import Slot
from .batching import PlanRows
from .returns import Returns


@dataclass(frozen=True, slots=True)
class Work:
    """What a job wants next: tokens read at a position, with or without decisions."""

    start_position: int
    tokens: tuple[int, ...]
    prefill: bool
    survival: tuple[float, ...] | None = None
    """For each token after the first the chance that it is of use; None where all are needed."""


class Job(Protocol):
    """Something that wants rows. All methods run on the device thread."""

    slot: Slot

    @property
    def done(self) -> bool:
        """True when the job wants nothing any more."""
        ...

    def work(self) -> Work | None:
        """What to run next; None while there is nothing to do. Raises OutriderError."""
        ...

    def take(self, work: Work, result: RowResult | None, batch_rows: int, seconds: float) -> None:
        """The work was run; `result` is None for prefill."""
        ...

    def fail(self, error: OutriderError) -> None:
        """The work cannot be run; the job is done."""
        ...


Ready = tuple[Job, Work]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step runs: verify rows, or one prefill chunk."""

    entries: tuple[Ready, ...]

    @property
    def prefill(self) -> bool:
        """True for a chunk of a prompt."""
        return self.entries[0][1].prefill


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing runs for so long, unless something becomes ready before."""

    seconds: float


class Scheduler:
    """Plans step after step. `plan` says how many tokens each of the first rows of a step keeps.

    Prefill chunks and steps of verify rows take turns where both are wanted, so a long prompt delays the
    others by one chunk between two steps. Rows wait for sessions that earlier steps answered where that pays
    (`returns.py`); a chunk waits for nobody, as no row shares it.
    """

    def __init__(self, plan: PlanRows) -> None:
        self._plan = plan
        self._prefilled_last = False
        self._away: dict[int, Slot] = {}
        self._returns = Returns()

    def next(self, ready: Sequence[Ready], now: float, *, has_waited: bool = False) -> Batch | Wait:
        """What to do with what is ready, of which there is something; who has waited in vain runs."""
        self._note_returns([job.slot for job, _ in ready], now)
        verify = [entry for entry in ready if not entry[1].prefill]
        prefill = [entry for entry in ready if entry[1].prefill]
        if prefill and (not verify or not self._prefilled_last):
            return Batch(tuple(prefill[:1]))
        if self._away and not has_waited:
            seconds = self._returns.seconds_worth_waiting(len(verify), now)
            if seconds > 0:
                return Wait(seconds)
        return Batch(tuple(self._kept(verify)))

    def ran(self, batch: Batch, seconds: float, now: float) -> None:
        """A batch has run, in so long. Those that it answered may come back."""
        self._prefilled_last = batch.prefill
        if batch.prefill:
            return
        answered = {job.slot.index: job.slot for job, _ in batch.entries if job.done}
        self._away |= answered
        self._returns.answered(answered.keys(), now, seconds)

    def failed(self, batch: Batch) -> None:
        """A batch could not be run."""
        self._prefilled_last = batch.prefill

    def _kept(self, verify: Sequence[Ready]) -> Sequence[Ready]:
        """The rows that fit into a step, each as long as it pays."""
        kept = self._plan([(len(work.tokens), work.survival) for _, work in verify])
        return [
            (job, replace(work, tokens=work.tokens[:count]))
            for (job, work), count in zip(verify, kept, strict=False)
        ]

    def _note_returns(self, here: Sequence[Slot], now: float) -> None:
        self._returns.back([slot.index for slot in here], now)
        for slot in here:
            self._away.pop(slot.index, None)
        for slot in [slot for slot in self._away.values() if not slot.open]:
            self._returns.gone(slot.index)
            del self._away[slot.index]


def in_turn(jobs: Sequence[Job], batch: Batch) -> list[Job]:
    """The jobs in the order of their next turns: those that the batch left out come first."""
    served = {id(job) for job, _ in batch.entries}
    return sorted(jobs, key=lambda job: id(job) in served)
