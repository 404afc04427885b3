"""An event loop in a thread of its own, for callers that are not async or have a loop of theirs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from outrider.errors import CallCancelledError, ClosedError

ResultT = TypeVar("ResultT")


class LoopThread:
    """Runs coroutines for other threads until it is closed."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._closed = False
        # A daemon, so that a client that nobody closed does not keep the program alive.
        self._thread = threading.Thread(target=self._run, name="outrider-client", daemon=True)
        self._thread.start()
        self._ready.wait()

    def submit(self, work: Coroutine[Any, Any, ResultT]) -> concurrent.futures.Future[ResultT]:
        """Starts a coroutine. Raises `ClosedError` after `close`."""
        with self._lock:
            if self._closed:
                work.close()
                raise ClosedError("the client is closed")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

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
        """Runs a function on the loop, or not at all once it is closed.

        Takes no lock, because the garbage collector may call it at any point of any thread.
        """
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(work)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Runs `last`, cancels what still runs and ends the thread; harmless when repeated."""
        with self._lock:
            if self._closed:
                last.close()
                return
            self._closed = True
            future = asyncio.run_coroutine_threadsafe(last, self._loop)
        try:
            future.result()
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()
