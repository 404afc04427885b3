"""The device thread: the only thread that touches the engine.

Everything that changes slots or runs steps comes through its inbox. Between steps it batches whatever rows
are waiting; the time of a step is the batching window. Sessions that were answered lately are waited for
while that pays (`returns.py`).
Verify rows go first, and at most one prefill chunk runs between two verify steps, so a long prompt delays
the others by one chunk.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ..core.errors import InternalError, OutriderError
from .batching import PlanRows
from .engine import Engine
from .layout import RowResult
from .returns import Returns
from .slots import Slot

log = logging.getLogger("outrider.engine")

T = TypeVar("T")


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


def choose(ready: Sequence[Ready], plan: PlanRows, prefilled_last: bool) -> list[Ready]:
    """Decides the next step: a batch of verify rows, or one prefill chunk. Pure.

    Prefill runs when no verify row waits, and alternates with verify steps when both wait. `plan` says how
    many tokens each of the first rows keeps.
    """
    verify = [entry for entry in ready if not entry[1].prefill]
    prefill = [entry for entry in ready if entry[1].prefill]
    if prefill and (not verify or not prefilled_last):
        return prefill[:1]
    kept = plan([(len(work.tokens), work.survival) for _, work in verify])
    return [
        (job, replace(work, tokens=work.tokens[:count]))
        for (job, work), count in zip(verify, kept, strict=False)
    ]


class DeviceThread:
    """Runs an engine in a thread of its own. Start it with `start`, end it with `stop`."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._build = build
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: list[Job] = []
        self._prefilled_last = False
        self._away: dict[int, Slot] = {}
        self._returns = Returns()
        self._stopping = False
        self._engine: Engine | None = None
        self._started: Future[Engine] = Future()
        self._thread = threading.Thread(target=self._run, name="outrider-device", daemon=True)

    async def start(self) -> Engine:
        """Builds the engine in the thread: loading, compiling, audit. Raises what building raises."""
        self._thread.start()
        return await asyncio.wrap_future(self._started)

    @property
    def engine(self) -> Engine:
        """The engine, once started: to be read by other threads, never changed."""
        assert self._engine is not None, "the device thread has not started"
        return self._engine

    async def stop(self) -> None:
        """Ends the thread after the step that runs. Jobs that are left fail."""
        self._inbox.put(self._request_stop)
        await asyncio.to_thread(self._thread.join)

    async def call(self, function: Callable[[Engine], T]) -> T:
        """Runs a function on the device thread between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(self.engine))
            except BaseException as error:
                future.set_exception(error)

        self._inbox.put(run)
        return await asyncio.wrap_future(future)

    def submit(self, job: Job) -> None:
        """Adds a job; from any thread."""
        self._inbox.put(lambda: self._jobs.append(job))

    def wake(self, change: Callable[[], None]) -> None:
        """Runs a small change of a job's state on the device thread; from any thread."""
        self._inbox.put(change)

    def _request_stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            self._engine = self._build()
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._started.set_result(self._engine)
        ready: list[Ready] = []
        while not self._stopping:
            self._drain_inbox(wait=not ready)
            ready = self._gather(self._ready())
            if ready:
                self._step(self._engine, ready)
        self._fail(self._jobs, InternalError("the service is stopping; try again elsewhere"))

    def _drain_inbox(self, wait: bool) -> None:
        if wait:
            self._perform(self._inbox.get())
        while not self._inbox.empty():
            self._perform(self._inbox.get())

    def _perform(self, change: Callable[[], None]) -> None:
        try:
            change()
        except Exception:
            log.exception("a change of the device thread's state failed")

    def _ready(self) -> list[Ready]:
        ready: list[Ready] = []
        for job in self._jobs:
            try:
                work = None if job.done else job.work()
            except OutriderError as error:
                job.fail(error)
                continue
            except Exception:
                log.exception("a job failed to say what it wants")
                job.fail(InternalError("the step failed; the service's log says why"))
                continue
            if work is not None:
                ready.append((job, work))
        self._jobs = [job for job in self._jobs if not job.done]
        return ready

    def _gather(self, ready: list[Ready]) -> list[Ready]:
        """Waits, while others wait already, for sessions that earlier steps answered."""
        while ready:
            now = time.perf_counter()
            self._note_returns([job.slot for job, _ in ready], now)
            seconds = self._returns.seconds_worth_waiting(len(ready), now) if self._away else 0
            if seconds <= 0:
                break
            try:
                self._perform(self._inbox.get(timeout=seconds))
            except queue.Empty:
                break
            self._drain_inbox(wait=False)
            ready = self._ready()
        return ready

    def _note_returns(self, here: Sequence[Slot], now: float) -> None:
        self._returns.back([slot.index for slot in here], now)
        for slot in here:
            self._away.pop(slot.index, None)
        for slot in [slot for slot in self._away.values() if not slot.open]:
            self._returns.gone(slot.index)
            del self._away[slot.index]

    def _step(self, engine: Engine, ready: list[Ready]) -> None:
        batch = choose(ready, engine.plan_rows, self._prefilled_last)
        self._prefilled_last = batch[0][1].prefill
        try:
            self._run_batch(engine, batch)
        except Exception:
            log.exception("a step failed")
            failure = InternalError("the step failed; the service's log says why")
            self._fail([job for job, _ in batch], failure)
        # Those that were not chosen go first next time.
        served = {id(job) for job, _ in batch}
        self._jobs.sort(key=lambda job: id(job) in served)

    def _fail(self, jobs: Sequence[Job], error: OutriderError) -> None:
        """Fails the jobs that are not done; a job is done when the last step resolved it."""
        for job in jobs:
            if not job.done:
                job.fail(error)

    def _run_batch(self, engine: Engine, batch: list[Ready]) -> None:
        if self._prefilled_last:
            ((job, work),) = batch
            seconds = engine.prefill(job.slot, work.start_position, work.tokens)
            job.take(work, None, 1, seconds)
            return
        result = engine.decide(
            [(job.slot, work.start_position, work.tokens) for job, work in batch]
        )
        for (job, work), row in zip(batch, result.rows, strict=True):
            job.take(work, row, len(batch), result.seconds)
        answered = {job.slot.index: job.slot for job, _ in batch if job.done}
        self._away |= answered
        self._returns.answered(answered.keys(), time.perf_counter(), result.seconds)
