"""Virtual time: a loop that never sleeps, and processes that are killed or frozen between two steps.

Owns what runs next and what time it is. A process is a context variable: whatever is started from inside a
process belongs to it, and the handles of a dead process are never run again, so a crash loses exactly what
a real one loses and runs no `finally`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import heapq
import logging
import random
import sys
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from outrider_server.core.surroundings import Surroundings

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
EPOCH_NS = 1_700_000_000_000_000_000
COLLECT_SECONDS = 1.0


class Stuck(Exception):
    """Nothing can ever run again, and the simulation has not ended."""


class Process:
    """One operating system process of the simulation."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.steps = 0
        self.on_step: dict[int, Callable[[], None]] = {}
        """What happens right after a step of this number."""
        self.tasks: set[asyncio.Task[Any]] = set()
        self.server: Any = None
        """What answers calls to it, for a service."""
        self._loop = loop
        self._held: deque[asyncio.Handle] = deque()
        self._context = contextvars.copy_context()
        self._context.run(PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task of this process."""
        return self._loop.create_task(work, context=self._context.copy())

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function as this process."""
        return self._context.copy().run(function, *arguments)

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls a function as this process, soon; never, if it is dead by then."""
        self._loop.call_soon(function, *arguments, context=self._context)

    def hold(self, handle: asyncio.Handle) -> None:
        """Keeps a step until the process thaws."""
        self._held.append(handle)

    def thaw(self) -> None:
        """Goes on after a freeze, with all that came meanwhile."""
        self.frozen = False
        self._loop.requeue(self._held)
        self._held.clear()


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready in order; with nothing ready, time jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.events = 0
        self._now = 0.0
        self._nobody = contextvars.Context()
        self._kept: set[asyncio.Task[Any]] = set()
        self._next_collection = COLLECT_SECONDS

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def spend(self, seconds: float) -> None:
        """Time passes while the running step computes."""
        self._now += seconds

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        """As asyncio's; the task is noted with the process that starts it."""
        task: asyncio.Task[Any] = super().create_task(coro, name=name, context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        tasks = self._kept if process is None else process.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def later(self, when: float, function: Callable[..., None], *arguments: Any) -> None:
        """Calls a function at a time, as no process: the network outlives whoever sends."""
        self.call_at(when, function, *arguments, context=self._nobody)

    def requeue(self, handles: deque[asyncio.Handle]) -> None:
        """Makes handles ready that were kept back."""
        self._ready.extend(handles)

    def _write_to_self(self) -> None:
        """There is no other thread to be woken by."""

    def _run_once(self) -> None:
        if not self._ready:
            while self._scheduled and self._scheduled[0]._cancelled:
                heapq.heappop(self._scheduled)._scheduled = False
            if not self._scheduled:
                raise Stuck("nothing is left to run")
            self._now = max(self._now, self._scheduled[0]._when)
            if self._now >= self._next_collection:
                self._next_collection = self._now + COLLECT_SECONDS
                gc.collect()
        while self._scheduled and self._scheduled[0]._when <= self._now:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            self._ready.append(timer)
        for _ in range(len(self._ready)):
            self._run_handle(self._ready.popleft())

    def _run_handle(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)
        if process is not None:
            if not process.alive:
                return
            if process.frozen:
                process.hold(handle)
                return
        self.events += 1
        handle._run()
        if process is not None:
            process.steps += 1
            then = process.on_step.pop(process.steps, None)
            if then is not None:
                then()


def surroundings(loop: VirtualLoop, seed: int) -> Surroundings:
    """Those of all processes of a run: the loop's time, and chance that starts from the seed."""
    chance = random.Random(seed)
    return Surroundings(
        loop.time,
        lambda: EPOCH_NS + round(loop.time() * 1e9),
        chance,
        lambda: uuid.UUID(int=chance.getrandbits(128), version=4).hex,
    )


@contextlib.contextmanager
def virtual_time() -> Iterator[VirtualLoop]:
    """A virtual loop. The collector of cycles runs at fixed virtual times only: it closes generators, which
    is an event."""
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()  # what was there before is not looked at again and again
    try:
        yield VirtualLoop()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """What is closed from outside complains; nobody hears it meanwhile."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what is begun while all is closed
            yield
    finally:
        logging.disable(logging.NOTSET)
        sys.unraisablehook = hook


def bury(loop: VirtualLoop, processes: list[Process]) -> None:
    """Throws away what never ended."""
    loop.set_exception_handler(lambda *_: None)
    tasks = [task for process in processes for task in process.tasks]
    for process in processes:
        process.alive = False
    with unheard():
        _close(loop, processes, tasks)


def _close(loop: VirtualLoop, processes: list[Process], tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        with contextlib.suppress(BaseException):
            task.get_coro().close()  # type: ignore[union-attr]
    for process in processes:
        process.tasks.clear()
    tasks.clear()
    loop._ready.clear()
    loop._scheduled.clear()
    gc.collect()
    loop._ready.clear()
    loop.close()
