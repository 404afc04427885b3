"""An event loop in a thread of its own, for callers that are not async or have a loop of theirs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from outrider._fork import Owned
from outrider.errors import CallCancelledError, ClosedError, OutriderError

ResultT = TypeVar("ResultT")
Last = Callable[[], Coroutine[Any, Any, None]]


class LoopThread(Owned):
    """Runs coroutines for other threads, from the first one until it is closed or dropped.

    `last` is run at the end. Neither it nor a coroutine may refer to this object, which could not be dropped
    then.
    """

    def __init__(self, last: Last) -> None:
        self._last = last
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, work: Coroutine[Any, Any, ResultT]) -> concurrent.futures.Future[ResultT]:
        """Starts a coroutine. Raises `ClosedError` after `close`, and `UsageError` in a forked process."""
        try:
            self.check_own()
            with self._lock:
                if self._closed:
                    raise ClosedError("the client is closed")
                return asyncio.run_coroutine_threadsafe(work, self._running())
        except OutriderError:
            work.close()
            raise

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Runs a coroutine to its end; an interrupt of this thread cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise CallCancelledError("the client was closed during the call") from None
        except BaseException:
            future.cancel()
            raise

    def call_soon(self, work: Callable[[], None]) -> None:
        """Runs a function on the loop, or not at all where there is none, or none any more.

        Takes no lock, because the garbage collector may call it at any point of any thread.
        """
        if self._loop is not None and not self.is_inherited:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(work)

    def close(self) -> None:
        """Runs `last`, cancels what still runs and ends the thread; harmless when repeated."""
        if self.is_inherited:
            return  # the parent's
        with self._lock:
            self._closed = True
            if self._loop is None:
                return
        self._end()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop, whose thread is started here when there is none yet."""
        if self._loop is None:
            self.own()
            started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
            started = concurrent.futures.Future()
            # A daemon, so that a client that nobody closed does not keep the program alive.
            self._thread = threading.Thread(
                target=lambda last: asyncio.run(_serve(last, started)),
                args=(self._last,),
                name="outrider-client",
                daemon=True,
            )
            self._thread.start()
            self._loop, stop = started.result()
            self._end = weakref.finalize(self, _stop, self._loop, stop)
            self._end.atexit = False
        return self._loop


async def _serve(
    last: Last, started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
    await last()


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Ends a loop's thread. May run anywhere, as it waits for nothing."""
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(stop.set)
