"""The device thread: what it chooses to run, and what of it may fail without hurting the rest."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from engine.jobs import PREFILL, VERIFY, CountingJob
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.core.errors import InternalError, InvalidRequest
from outrider_server.engine.engine import BatchResult
from outrider_server.engine.layout import RowResult
from outrider_server.engine.scheduling.batching import Demand, PlanRows
from outrider_server.engine.scheduling.scheduler import Batch, Ready, Scheduler, Work
from outrider_server.engine.slots import Slot
from outrider_server.host.device_thread import DeviceThread

PATIENCE_SECONDS = 60


class IdleJob(CountingJob):
    """Waits for something that never comes."""

    def work(self) -> Work | None:
        return None


class RecordingEngine:
    """Runs nothing; remembers the sessions of every step. Fails the steps of the session "bad"."""

    def __init__(self, rows: int = 2) -> None:
        self.rows = rows
        self.clock = time.monotonic
        self.steps: list[tuple[str, tuple[str, ...]]] = []

    def plan_rows(self, demands: Sequence[Demand]) -> list[int]:
        return [length for length, _ in demands[: self.rows]]

    def prefill(self, slot: Slot, start_position: int, tokens: tuple[int, ...]) -> float:
        self._note("prefill", (slot.session_id,))
        return 0.5

    def decide(self, rows: list[tuple[Slot, int, tuple[int, ...]]]) -> BatchResult:
        self._note("verify", tuple(slot.session_id for slot, _, _ in rows))
        return BatchResult([RowResult((0,))] * len(rows), 0.0)

    def _note(self, kind: str, names: tuple[str, ...]) -> None:
        self.steps.append((kind, names))
        if "bad" in names:
            raise RuntimeError("a secret of the device")


async def started(engine: RecordingEngine) -> DeviceThread:
    device = DeviceThread(lambda: engine)
    assert await device.start() is engine
    return device


async def run(engine: RecordingEngine, *jobs: CountingJob) -> None:
    """Submits all jobs between two steps and waits for them."""
    device = await started(engine)
    await device.call(lambda _: [device.submit(job) for job in jobs])
    await device.call(lambda _: None)
    while not all(job.done for job in jobs):
        await device.call(lambda _: None)
    await device.stop()


def chosen_of(ready: Sequence[Ready], plan: PlanRows, prefilled_last: bool) -> list[Ready]:
    """What a scheduler runs of what is ready, after a step of either kind."""
    scheduler = Scheduler(plan)
    before = PREFILL if prefilled_last else VERIFY
    scheduler.ran(Batch(((CountingJob("before"), before),)), 0.0, 0.0)
    decision = scheduler.next(ready, 0.0)
    assert isinstance(decision, Batch), "nobody is away"
    return list(decision.entries)


READY = st.lists(st.booleans(), min_size=1, max_size=12).map(
    lambda kinds: [
        (CountingJob(str(index)), PREFILL if kind else VERIFY) for index, kind in enumerate(kinds)
    ]
)


@given(READY, st.integers(1, 5), st.booleans())
def test_a_step_is_one_chunk_or_a_batch_of_the_first_verify_rows(
    ready: list[tuple[CountingJob, Work]], rows: int, prefilled_last: bool
) -> None:
    chosen = chosen_of(ready, RecordingEngine(rows).plan_rows, prefilled_last)
    verify = [entry for entry in ready if not entry[1].prefill]
    prefill = [entry for entry in ready if entry[1].prefill]
    assert chosen, "something runs whenever something waits"
    if chosen[0][1].prefill:
        assert chosen == prefill[:1]
        assert not verify or not prefilled_last
    else:
        assert chosen == verify[:rows]
        assert not prefill or prefilled_last


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=6), st.data())
def test_a_row_is_cut_to_what_the_plan_keeps_of_it(
    lengths: list[tuple[int, bool]], data: st.DataObject
) -> None:
    """The plan is asked with every row's length and chances, in the order in which the rows wait."""
    works = [
        Work(3, tuple(range(length)), False, (0.5,) * (length - 1) if told else None)
        for length, told in lengths
    ]
    kept = [data.draw(st.integers(1, length)) for length, _ in lengths]
    kept = kept[: data.draw(st.integers(1, len(kept)))]
    asked: list[Demand] = []

    def plan(demands: Sequence[Demand]) -> list[int]:
        asked.extend(demands)
        return kept

    jobs = [CountingJob(str(index)) for index in range(len(works))]
    chosen = chosen_of(list(zip(jobs, works, strict=True)), plan, prefilled_last=True)
    assert asked == [(len(work.tokens), work.survival) for work in works]
    assert [job for job, _ in chosen] == jobs[: len(kept)]
    assert [work.tokens for _, work in chosen] == [tuple(range(count)) for count in kept]
    assert all(work.start_position == 3 and not work.prefill for _, work in chosen)


async def test_prefill_and_verify_alternate_while_both_wait() -> None:
    engine = RecordingEngine()
    await run(engine, CountingJob("long", chunks=4, rows=1), CountingJob("short", rows=4))
    kinds = [kind for kind, _ in engine.steps]
    assert kinds == ["prefill", "verify"] * 4
    assert engine.steps[-1][1] == ("short", "long")


async def test_two_long_prompts_share_the_chunks() -> None:
    engine = RecordingEngine()
    await run(engine, CountingJob("a", chunks=3), CountingJob("b", chunks=3))
    order = [names[0] for kind, names in engine.steps if kind == "prefill"]
    assert order == ["a", "b", "a", "b", "a", "b"]


async def test_more_rows_than_fit_take_turns() -> None:
    """Five jobs of six rows in steps of two: no job is ever two steps behind another."""
    engine = RecordingEngine(rows=2)
    names = "abcde"
    await run(engine, *(CountingJob(name, rows=6) for name in names))
    counts = dict.fromkeys(names, 0)
    for _, served in engine.steps[:-3]:
        for name in served:
            counts[name] += 1
        assert max(counts.values()) - min(counts.values()) <= 2
    assert len(engine.steps) == 15, "every step is full"


async def test_a_step_that_fails_fails_its_own_rows_only() -> None:
    engine = RecordingEngine(rows=2)
    jobs = [CountingJob(name, rows=2) for name in ("bad", "beside", "later", "last")]
    await run(engine, *jobs)
    assert [len(job.failures) for job in jobs] == [1, 1, 0, 0]
    for job in jobs[:2]:
        assert isinstance(job.failures[0], InternalError)
        assert "secret" not in str(job.failures[0])


async def test_a_chunk_that_fails_fails_its_own_job_only() -> None:
    engine = RecordingEngine()
    bad, good = CountingJob("bad", chunks=2), CountingJob("good", chunks=2)
    await run(engine, bad, good)
    assert len(bad.failures) == 1
    assert not good.failures


async def test_a_job_that_cannot_run_is_failed_with_its_own_error() -> None:
    engine = RecordingEngine()
    refused = InvalidRequest("tokens", "no such token")
    wrong, good = CountingJob("wrong", error=refused), CountingJob("good")
    await run(engine, wrong, good)
    assert wrong.failures == [refused]
    assert engine.steps == [("verify", ("good",))]


async def test_one_result_that_cannot_be_taken_does_not_undo_the_others() -> None:
    class Unable(CountingJob):
        def take(self, *_: object) -> None:
            raise RuntimeError("nobody listens")

    first, unable, after = CountingJob("first"), Unable("unable"), CountingJob("after")
    await run(RecordingEngine(rows=2), first, unable, after)
    assert [len(job.failures) for job in (first, unable, after)] == [0, 1, 0]


async def test_stop_fails_the_jobs_that_are_left() -> None:
    device = await started(RecordingEngine())
    waiting, finished = IdleJob("waiting"), CountingJob("finished")
    device.submit(waiting)
    device.submit(finished)
    await device.stop()
    assert [len(job.failures) for job in (waiting, finished)] == [1, 0]
    assert "stopping" in str(waiting.failures[0])


async def test_a_job_resolved_by_the_last_step_is_not_failed_by_the_stop() -> None:
    """The stop arrives in the inbox before the step, so that the step is the last one."""
    device = await started(RecordingEngine())
    waiting, job = IdleJob("waiting"), CountingJob("job")

    def together(_: object) -> None:
        device.submit(job)
        device.wake(device._request_stop)
        device.submit(waiting)

    await device.call(together)
    await device.stop()
    assert not job.failures
    assert len(waiting.failures) == 1


async def test_call_returns_and_raises_what_the_function_does() -> None:
    device = await started(RecordingEngine(rows=7))
    assert await device.call(lambda engine: engine.rows) == 7
    with pytest.raises(ZeroDivisionError):
        await device.call(lambda _: 1 // 0)
    name = await device.call(lambda _: threading.current_thread().name)
    assert name == "outrider-device"
    await device.stop()


async def test_an_engine_that_cannot_be_built_is_told_by_start() -> None:
    def refuse() -> RecordingEngine:
        raise InvalidRequest("folder", "not this one")

    with pytest.raises(InvalidRequest, match="not this one"):
        await DeviceThread(refuse).start()


async def test_changes_run_in_the_order_they_were_sent() -> None:
    device = await started(RecordingEngine())
    seen: list[int] = []
    changes: list[Callable[[], None]] = [
        lambda number=number: seen.append(number) for number in range(50)
    ]
    for change in changes:
        device.wake(change)
    await device.call(lambda _: None)
    assert seen == list(range(50))
    await device.stop()


class Planless(RecordingEngine):
    """Fails to plan as long as it is told to."""

    broken = True

    def plan_rows(self, demands: Sequence[Demand]) -> list[int]:
        if self.broken:
            raise RuntimeError("a secret of the plan")
        return super().plan_rows(demands)


async def test_a_plan_that_fails_ends_the_jobs_and_not_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Planless()
    device = await started(engine)
    job = CountingJob("a")
    device.submit(job)
    while not job.done:
        await device.call(lambda _: None)
    (failure,) = job.failures
    assert str(failure) == "the service failed; its log says why"
    assert "a secret of the plan" in caplog.text
    engine.broken = False
    later = CountingJob("b")
    device.submit(later)
    while not later.done:
        await device.call(lambda _: None)
    assert not later.failures
    await device.stop()


async def test_after_the_end_nobody_waits_for_ever() -> None:
    device = await started(RecordingEngine())
    await device.stop()
    with pytest.raises(InternalError, match="stopping"):
        await device.call(lambda _: None)
    with pytest.raises(InternalError, match="stopping"):
        device.submit(CountingJob("late"))
    device.wake(lambda: pytest.fail("nobody runs it"))
    await device.stop()


async def test_what_was_asked_while_the_thread_ends_is_answered() -> None:
    device = await started(RecordingEngine())
    inside, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        may_end.wait()

    device.wake(hold)
    await asyncio.to_thread(inside.wait)
    device.wake(device._request_stop)
    asked = asyncio.create_task(device.call(lambda engine: engine.rows))
    job = CountingJob("late")
    await asyncio.sleep(0)
    device.submit(job)
    may_end.set()
    assert await asyncio.wait_for(asked, PATIENCE_SECONDS) == 2
    await device.stop()
    assert job.done


async def test_an_engine_that_was_not_built_leaves_nobody_waiting() -> None:
    def refuse() -> RecordingEngine:
        raise InvalidRequest("folder", "not this one")

    device = DeviceThread(refuse)
    with pytest.raises(InvalidRequest):
        await device.start()
    await asyncio.to_thread(device._thread.join)
    with pytest.raises(InternalError):
        await device.call(lambda _: None)
