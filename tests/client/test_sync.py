"""The sync face over a real channel: its thread, its queue, its endings."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import outrider
import pytest

from .fake_service import HOLD, started, summary, token


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "outrider-client"]


def test_a_reply_is_an_ordinary_iterator(sync_client):
    reply = sync_client.create_session().generate("hi")
    assert [event.text for event in reply] == ["he", "llo", "!"]
    assert list(reply) == []
    assert reply.summary.tokens_per_round == 1.5


def test_text_is_what_was_read_even_when_more_has_arrived(sync_client, service):
    service.script = [started(), *(token(index) for index in range(50)), summary(50)]
    reply = sync_client.create_session().generate("hi")
    next(reply)
    sync_client.describe()
    assert (reply.text, reply.tokens) == ("a", [100])
    assert reply.read().text == "a" * 50


def test_a_thousand_tokens_arrive_in_order(sync_client, service):
    service.script = [
        started(),
        *(token(index) for index in range(1000)),
        summary(1000, position=7),
    ]
    session = sync_client.create_session()
    assert session.generate("hi").read().tokens == [100 + index for index in range(1000)]
    assert session.position == 7


def test_errors_arrive_where_the_reply_is_read(sync_client, service):
    service.script = [started(), token(0)]
    reply = sync_client.create_session().generate("hi")
    assert next(reply).index == 0
    for _ in range(2):
        with pytest.raises(outrider.StreamBrokenError):
            next(reply)


def test_a_summary_before_the_end_is_refused(sync_client):
    reply = sync_client.create_session().generate("hi")
    with pytest.raises(outrider.UnfinishedError):
        _ = reply.summary


@pytest.mark.parametrize("leave", ["with", "close", "drop"])
def test_leaving_early_cancels_on_the_service(sync_client, service, leave):
    service.script = [started(), token(0), HOLD]
    reply = sync_client.create_session().generate("hi")
    if leave == "with":
        with reply:
            next(reply)
    elif leave == "close":
        with contextlib.closing(reply):
            next(reply)
    else:
        next(reply)
        del reply
        gc.collect()
    assert service.cancelled.wait(10)


def test_an_interrupt_while_waiting_cancels_on_the_service(sync_client, service, monkeypatch):
    service.script = [started(), token(0), HOLD]
    reply = sync_client.create_session().generate("hi")
    next(reply)

    def interrupted() -> None:
        raise KeyboardInterrupt

    reply._bridge._arrived = type("Interrupted", (), {"get": staticmethod(interrupted)})()
    with pytest.raises(KeyboardInterrupt):
        next(reply)
    assert service.cancelled.wait(10)
    with pytest.raises(outrider.CallCancelledError):
        next(reply)


def test_cancel_from_another_thread_wakes_the_reader(sync_client, service):
    service.script = [started(), token(0), HOLD]
    reply = sync_client.create_session().generate("hi")
    next(reply)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reply.read)
        reply.cancel()
        with pytest.raises(outrider.CallCancelledError):
            reading.result(10)


def test_closing_the_client_wakes_the_reader_and_ends_the_thread(address, service):
    service.script = [started(), token(0), HOLD]
    client = outrider.Client(address)
    reply = client.create_session().generate("hi")
    next(reply)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reply.read)
        client.close()
        with pytest.raises(outrider.CallCancelledError):
            reading.result(10)
    client.close()
    assert loop_threads() == []


def test_a_closed_client_refuses_calls_and_replies(address):
    client = outrider.Client(address)
    session = client.create_session()
    reply = session.generate("hi")
    client.close()
    for call in (client.describe, client.create_session, session.info, reply.read):
        with pytest.raises(outrider.ClosedError):
            call()


def test_a_reply_may_outlive_its_client(address):
    client = outrider.Client(address)
    reply = client.create_session().generate("hi")
    next(reply)
    client.close()
    reply.cancel()


async def test_it_works_inside_a_running_loop(sync_client):
    assert asyncio.get_running_loop().is_running()
    assert sync_client.create_session().generate("hi").read().text == "hello!"


def test_threads_share_a_client(sync_client):
    def turn(_: int) -> str:
        return sync_client.create_session().generate("hi").read().text

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(turn, range(8))) == ["hello!"] * 8


def test_two_clients_in_one_process_do_not_disturb_each_other(address, sync_client, caplog):
    with outrider.Client(address) as other:
        first = sync_client.create_session().generate("hi")
        second = other.create_session().generate("hi")
        pairs = [(one.text, two.text) for one, two in zip(first, second, strict=True)]
    assert pairs == [("he", "he"), ("llo", "llo"), ("!", "!")]
    assert caplog.records == []


def test_sessions_are_listed_over_all_pages(sync_client, service):
    service.add_sessions(5)
    assert [info.id for info in sync_client.sessions(page_size=2)] == [f"s{i}" for i in range(5)]


def test_a_session_can_be_opened_moved_and_deleted(sync_client, service):
    service.add_sessions(4)
    session = sync_client.open_session("s3")
    copy = session.fork(2)
    assert (copy.position, copy.generate("hi").read().text) == (2, "hello!")
    session.rewind(1)
    assert (session.position, session.info(with_tokens=True).text) == (1, "ab")
    session.delete()
    sync_client.delete_session(copy.id)
    with pytest.raises(outrider.NotFoundError):
        sync_client.get_session("s3")
    with pytest.raises(outrider.ClosedError):
        session.rewind(0)


def test_the_function_that_makes_metadata_sees_the_callers_context(address, service):
    span = contextvars.ContextVar("span", default="none")
    span.set("mine")
    with outrider.Client(address, metadata=lambda: {"traceparent": span.get()}) as client:
        client.create_session().generate("hi").read()
    assert service.metadata["traceparent"] == "mine"


def test_a_function_for_metadata_that_raises_does_not_hang_the_reader(address):
    def broken() -> dict[str, str]:
        raise LookupError("no span")

    with outrider.Client(address) as client:
        session = client.create_session()
        client._channel._metadata = broken
        with pytest.raises(LookupError):
            session.generate("hi").read()


@pytest.mark.parametrize(
    ("one", "other", "renamed"),
    [
        (outrider.AsyncClient, outrider.Client, {}),
        (outrider.AsyncSession, outrider.Session, {}),
        (outrider.AsyncReply, outrider.Reply, {"aclose": "close"}),
    ],
)
def test_the_async_and_the_sync_face_have_the_same_shape(one, other, renamed):
    def public(kind: type) -> dict[str, object]:
        return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}

    names = {renamed.get(name, name) for name in public(one)}
    assert names == set(public(other))
    for name, member in public(one).items():
        if inspect.isfunction(member):
            twin = getattr(other, renamed.get(name, name))
            assert list(inspect.signature(member).parameters) == list(
                inspect.signature(twin).parameters
            )
