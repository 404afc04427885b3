"""A long input holds nobody up: it is read beside the event loop, and not at all for who has left."""

from __future__ import annotations

import asyncio
import threading

import grpc
import outrider
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from outrider.v1 import session_pb2
from outrider_server.session.text.reading import LONG
from outrider_server.session.text.tokenizer import Tokenizer

from .harness import OWN_CONNECTION, SessionService, Stack, until
from .reference import target_alone
from .tiny_models import CONTEXT_TOKENS
from .wire import refusal

WAIT_SECONDS = 20.0
MEGABYTES = "x" * ((4 << 20) - 1024)


class SlowTokenizer:
    """Encodes nothing that is long before it is let go; remembers what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.asked: list[str] = []
        encode = Tokenizer.encode

        def slow(tokenizer: Tokenizer, text: str, **options: bool) -> list[int]:
            if len(text) > LONG:
                self.asked.append(text[:1])
                self.begun.set()
                assert self.go.wait(WAIT_SECONDS)
            return encode(tokenizer, text, **options)

        monkeypatch.setattr(Tokenizer, "encode", slow)

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, WAIT_SECONDS)


async def test_a_text_of_megabytes_is_refused_by_the_number_of_its_tokens(service) -> None:
    session = await service.client.create_session()
    request = session_pb2.GenerateRequest(session_id=session.id, text=MEGABYTES)
    refused = await refusal(service.stub.Generate(request))
    assert (refused.code, refused.field) == (grpc.StatusCode.INVALID_ARGUMENT, "input")
    assert f"the context of {CONTEXT_TOKENS} holds" in refused.message
    assert (await session.info()).turn_count == 0


async def test_health_and_other_turns_go_on_while_a_long_text_is_read(
    service: SessionService, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowTokenizer(monkeypatch)
    long = await service.client.create_session()
    reading = asyncio.create_task(long.generate(MEGABYTES).read())
    await slow.until_begun()
    address = f"unix:{stack.folder}/session"
    async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        await check(health_pb2.HealthCheckRequest(), timeout=WAIT_SECONDS / 2)
    other = await service.client.create_session()
    reply = await other.generate("def f(", max_new_tokens=8, seed=3).read()
    assert not reading.done()
    slow.go.set()
    with pytest.raises(outrider.InvalidRequestError):
        await reading
    assert reply.tokens == await target_alone(service.client, "def f(", max_new_tokens=8, seed=3)


async def test_a_text_whose_call_has_ended_is_not_encoded(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One waits until its deadline, one is cancelled; both stand behind one that is being read."""
    slow = SlowTokenizer(monkeypatch)

    async def begun(letter: str, **options: float) -> grpc.aio.UnaryStreamCall:
        session = await service.client.create_session()
        text = letter * (LONG + 1)
        request = session_pb2.GenerateRequest(session_id=session.id, text=text)
        return service.stub.Generate(request, **options)

    first = await begun("a")
    await slow.until_begun()
    reading = service.sessions.reading
    late, left = await begun("b", timeout=0.5), await begun("c")

    async def waits(count: int) -> bool:
        return reading._waiting // LONG == count

    await until(lambda: waits(3))
    left.cancel()
    await until(lambda: waits(1))
    assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    slow.go.set()
    assert await first.code() is grpc.StatusCode.INVALID_ARGUMENT
    last = await begun("d")
    assert await last.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert slow.asked == ["a", "d"]


async def test_a_chat_of_too_many_messages_parts_or_calls_is_refused(service) -> None:
    session = await service.client.create_session()
    message, part = session_pb2.ChatMessage, session_pb2.ContentPart
    chats = [
        [message(role="user")] * 10_001,
        [message(role="user", parts=[part(text="x")] * 10_000)],
        [message(role="assistant", tool_calls=[session_pb2.ToolCall(name="f")] * 10_000)],
    ]
    for messages in chats:
        chat = session_pb2.ChatInput(messages=messages)
        request = session_pb2.GenerateRequest(session_id=session.id, chat=chat)
        refused = await refusal(service.stub.Generate(request))
        assert (refused.code, refused.field) == (grpc.StatusCode.INVALID_ARGUMENT, "chat")
        assert "at most 10000 messages, parts and tool calls" in refused.message
