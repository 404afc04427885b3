"""What the scheduler waits for, and whom it serves first; what it chooses: `host/test_device_thread.py`."""

from __future__ import annotations

from outrider_server.engine.scheduling.scheduler import Batch, Scheduler, Wait, Work, in_turn
from outrider_server.engine.slots import Slot

from .jobs import PREFILL, VERIFY, CountingJob

STEP_SECONDS = 0.020


def a_job(slot: int, *, done: bool = False, is_open: bool = True) -> CountingJob:
    job = CountingJob(str(slot))
    job.slot = Slot(slot, str(slot), 1, open=is_open)
    if done:
        job.ended.set()
    return job


def after_answering(*jobs: CountingJob) -> Scheduler:
    """A scheduler whose last step, at 0 s, answered these."""
    scheduler = Scheduler(lambda demands: [length for length, _ in demands])
    scheduler.ran(Batch(tuple((job, VERIFY) for job in jobs)), STEP_SECONDS, 0.0)
    return scheduler


def test_one_that_was_answered_just_now_is_waited_for_by_another() -> None:
    scheduler = after_answering(a_job(0, done=True))
    decision = scheduler.next([(a_job(1), VERIFY)], 0.001)
    assert isinstance(decision, Wait)
    assert 0 < decision.seconds < 2 * STEP_SECONDS


def test_who_has_waited_in_vain_runs() -> None:
    scheduler = after_answering(a_job(0, done=True))
    entry = (a_job(1), VERIFY)
    assert scheduler.next([entry], 0.001, has_waited=True) == Batch((entry,))


def test_all_run_once_the_last_is_back() -> None:
    scheduler = after_answering(a_job(0, done=True))
    entries = ((a_job(1), VERIFY), (a_job(0), VERIFY))
    assert scheduler.next(entries, 0.002) == Batch(entries)


def test_a_turn_that_has_ended_is_not_waited_for() -> None:
    gone = a_job(0, done=True)
    scheduler = after_answering(gone)
    gone.slot.open = False
    entry = (a_job(1), VERIFY)
    assert scheduler.next([entry], 0.001) == Batch((entry,))


def test_a_chunk_of_a_prompt_waits_for_nobody() -> None:
    scheduler = after_answering(a_job(0, done=True))
    chunk = (a_job(1), PREFILL)
    assert scheduler.next([chunk], 0.001) == Batch((chunk,))


def test_prompts_beside_a_row_do_not_make_it_wait_less() -> None:
    """Chunks are no rows: what a wait brings does not depend on how many of them there are."""
    waits = []
    for prompts in (0, 5):
        scheduler = after_answering(a_job(0, done=True))
        scheduler.failed(Batch(((a_job(9), PREFILL),)))
        ready = [(a_job(1), VERIFY), *((a_job(2 + n), PREFILL) for n in range(prompts))]
        waits.append(scheduler.next(ready, 0.001))
    assert isinstance(waits[0], Wait)
    assert waits[0] == waits[1]


def test_one_that_was_not_answered_is_not_waited_for() -> None:
    scheduler = after_answering(a_job(0, done=False))
    entry = (a_job(1), VERIFY)
    assert scheduler.next([entry], 0.001) == Batch((entry,))


def test_a_chunk_of_a_prompt_runs_between_two_verify_steps_even_where_the_step_failed() -> None:
    scheduler = Scheduler(lambda demands: [length for length, _ in demands])
    ready: list[tuple[CountingJob, Work]] = [(a_job(0), PREFILL), (a_job(1), VERIFY)]
    kinds = []
    for number in range(4):
        decision = scheduler.next(ready, 0.0)
        assert isinstance(decision, Batch)
        kinds.append(decision.prefill)
        if number % 2:
            scheduler.ran(decision, STEP_SECONDS, 0.0)
        else:
            scheduler.failed(decision)
    assert kinds == [True, False, True, False]


def test_those_that_a_batch_left_out_come_first() -> None:
    jobs = [a_job(index) for index in range(4)]
    batch = Batch(((jobs[0], VERIFY), (jobs[2], VERIFY)))
    assert [job.name for job in in_turn(jobs, batch)] == ["1", "3", "0", "2"]
