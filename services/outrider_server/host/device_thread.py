"""The device thread: the only thread that touches the engine.

Everything that changes slots or runs steps comes through its inbox. Between steps it drains that, asks the
scheduler what to run, runs it and hands the results out; the time of a step is the batching window.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from ..core.errors import InternalError, OutriderError
from ..engine.engine import Engine
from ..engine.scheduling.scheduler import Batch, Job, Ready, Scheduler, in_turn

log = logging.getLogger("outrider.engine")

T = TypeVar("T")
STOPPING = "the service is stopping; try again elsewhere"


def tell(loop: asyncio.AbstractEventLoop, change: Callable[..., None], *arguments: object) -> None:
    """Calls a function soon on an event loop, from any thread."""
    with contextlib.suppress(RuntimeError):  # a loop that is closed: nobody listens any more
        loop.call_soon_threadsafe(change, *arguments)


class DeviceThread:
    """Runs an engine in a thread of its own. Start it with `start`, end it with `stop`."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._build = build
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: list[Job] = []
        self._stopping = False
        self._ended = False
        self._closing = threading.Lock()
        self._engine: Engine | None = None
        self._started: Future[Engine] = Future()
        self._thread = threading.Thread(target=self._run, name="outrider-device", daemon=True)

    async def start(self) -> Engine:
        """Builds the engine in the thread: loading, recording, audit. Raises what building raises."""
        self._thread.start()
        return await asyncio.wrap_future(self._started)

    @property
    def engine(self) -> Engine:
        """The engine, once started: to be read by other threads, never changed."""
        assert self._engine is not None, "the device thread has not started"
        return self._engine

    async def stop(self) -> None:
        """Ends the thread after the step that runs. Jobs that are left fail."""
        with contextlib.suppress(InternalError):  # it has ended already
            self._put(self._request_stop)
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

        self._put(run)
        return await asyncio.wrap_future(future)

    def submit(self, job: Job) -> None:
        """Adds a job; from any thread."""
        self._put(lambda: self._jobs.append(job))

    def wake(self, change: Callable[[], None]) -> None:
        """Runs a small change of a job's state on the device thread; from any thread."""
        with contextlib.suppress(InternalError):  # whose state it is has ended
            self._put(change)

    def _request_stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            self._engine = self._build()
        except BaseException as error:
            self._started.set_exception(error)
            self._end()
            return
        self._started.set_result(self._engine)
        scheduler = Scheduler(self._engine.plan_rows)
        ready: list[Ready] = []
        while not self._stopping:
            self._drain_inbox(wait=not ready)
            try:
                ready = self._run_next(self._engine, scheduler)
            except Exception:
                log.exception("choosing what to run failed")
                self._fail(self._jobs, InternalError("the service failed; its log says why"))
                scheduler, ready = Scheduler(self._engine.plan_rows), []
        self._end()

    def _run_next(self, engine: Engine, scheduler: Scheduler) -> list[Ready]:
        """Runs a step, once it is worth it; returns what was ready, nothing where nobody wants one."""
        ready, has_waited = self._ready(), False
        while ready:
            decision = scheduler.next(ready, engine.clock(), has_waited=has_waited)
            if isinstance(decision, Batch):
                self._step(engine, scheduler, decision)
                break
            if self._await_change(decision.seconds):
                ready = self._ready()
            else:
                has_waited = True
        return ready

    def _end(self) -> None:
        """Nothing is taken any more; what is still in the inbox is done, and no job is left waiting."""
        with self._closing:
            self._ended = True
        self._drain_inbox(wait=False)
        self._fail(self._jobs, InternalError(STOPPING))

    def _put(self, change: Callable[[], None]) -> None:
        """Raises InternalError when the thread has ended."""
        with self._closing:
            if self._ended:
                raise InternalError(STOPPING)
            self._inbox.put(change)

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

    def _await_change(self, seconds: float) -> bool:
        """Waits for something in the inbox and performs all that is there; False where nothing came."""
        try:
            self._perform(self._inbox.get(timeout=seconds))
        except queue.Empty:
            return False
        self._drain_inbox(wait=False)
        return True

    def _step(self, engine: Engine, scheduler: Scheduler, batch: Batch) -> None:
        try:
            seconds = self._run_batch(engine, batch)
        except Exception:
            log.exception("a step failed")
            scheduler.failed(batch)
            failure = InternalError("the step failed; the service's log says why")
            self._fail([job for job, _ in batch.entries], failure)
        else:
            scheduler.ran(batch, seconds, engine.clock())
        self._jobs = in_turn(self._jobs, batch)

    def _fail(self, jobs: Sequence[Job], error: OutriderError) -> None:
        """Fails the jobs that are not done; a job is done when the last step resolved it."""
        for job in jobs:
            if not job.done:
                job.fail(error)

    def _run_batch(self, engine: Engine, batch: Batch) -> float:
        """Runs a step and hands its results out; returns its seconds on the device."""
        if batch.prefill:
            ((job, work),) = batch.entries
            seconds = engine.prefill(job.slot, work.start_position, work.tokens)
            job.take(work, None, 1, seconds)
            return seconds
        rows = [(job.slot, work.start_position, work.tokens) for job, work in batch.entries]
        result = engine.decide(rows)
        for (job, work), row in zip(batch.entries, result.rows, strict=True):
            job.take(work, row, len(rows), result.seconds)
        return result.seconds
