"""Long work off the event loop: where it runs, what waits for what, and what is never begun."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import tokenizers
from outrider_server.core.errors import Exhausted, InvalidRequest
from outrider_server.core.surroundings import CHANCE
from outrider_server.models import TARGET_FOLDER
from outrider_server.session.text import reading as readings
from outrider_server.session.text.encoding import encode
from outrider_server.session.text.reading import AT_ONCE, LONG, Reading
from outrider_server.session.text.tokenizer import RenderedText, Tokenizer
from outrider_server.session.text.too_long import PIECE, is_too_long

WAIT_SECONDS = 20.0
SHORT, MIDDLE = AT_ONCE, AT_ONCE + 1


@pytest.fixture
def reading() -> Iterator[Reading]:
    opened = Reading(CHANCE)
    yield opened
    opened.close()


class Held:
    """Work that runs until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(WAIT_SECONDS)
        return "done"

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, WAIT_SECONDS)


async def test_what_is_long_runs_beside_the_event_loop_and_what_is_short_on_it(
    reading: Reading,
) -> None:
    loop = threading.get_ident()
    assert await reading.read(SHORT, threading.get_ident) == loop
    threads = {await reading.read(size, threading.get_ident) for size in (MIDDLE, LONG, LONG + 1)}
    assert loop not in threads
    assert len(threads) == 2


async def test_what_is_long_is_not_waited_for_by_anything_shorter(reading: Reading) -> None:
    held = Held()
    long = asyncio.create_task(reading.read(LONG + 1, held))
    await held.until_begun()
    async with asyncio.timeout(WAIT_SECONDS):
        assert await reading.read(MIDDLE, lambda: "middle") == "middle"
    assert not long.done()
    held.go.set()
    assert await long == "done"


async def test_what_waits_for_a_call_that_has_ended_is_never_begun(reading: Reading) -> None:
    held, begun = Held(), []
    first = asyncio.create_task(reading.read(LONG + 1, held))
    await held.until_begun()
    left = [
        asyncio.create_task(reading.read(LONG + 1, lambda name=name: begun.append(name)))
        for name in ("left", "stays")
    ]
    await asyncio.sleep(0)
    left[0].cancel()
    await asyncio.wait(left[:1])
    held.go.set()
    await asyncio.gather(first, *left, return_exceptions=True)
    assert left[0].cancelled()
    assert begun == ["stays"]


async def test_more_than_a_bound_does_not_wait(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "MOST_WAITING", 3 * LONG)
    held = Held()
    first = asyncio.create_task(reading.read(2 * LONG, held))
    await held.until_begun()
    with pytest.raises(Exhausted, match="too many long inputs"):
        await reading.read(2 * LONG, lambda: None)
    assert await reading.read(LONG, lambda: "fits") == "fits"
    held.go.set()
    await first
    assert await reading.read(9 * LONG, lambda: "alone") == "alone"


async def test_what_work_raises_is_raised(reading: Reading) -> None:
    def refuse() -> None:
        raise InvalidRequest("chat", "no")

    with pytest.raises(InvalidRequest, match="no"):
        await reading.read(MIDDLE, refuse)
    await test_what_is_long_runs_beside_the_event_loop_and_what_is_short_on_it(reading)


class Counting:
    """A tokenizer that counts the characters it was given."""

    def __init__(self, raw: tokenizers.Tokenizer) -> None:
        self.raw, self.characters = raw, 0

    def encode_batch(self, texts: list[str], **options: bool) -> list[tokenizers.Encoding]:
        self.characters += sum(map(len, texts))
        return self.raw.encode_batch(texts, **options)


@pytest.fixture(scope="module")
def raw() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(TARGET_FOLDER / "tokenizer.json"))


WRITES: dict[str, Callable[[int], str]] = {
    "code": lambda size: "def f(x):\n    return x + 1\n" * (size // 27 + 1),
    "spaces": lambda size: " " * size,
    "one letter": lambda size: "a" * size,
    "emoji": lambda size: "\N{GRINNING FACE}" * (size // 4),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_text_far_beyond_the_context_is_not_encoded_to_its_end(raw, kind: str) -> None:
    counting = Counting(raw)
    assert is_too_long(WRITES[kind](4 << 20), counting, 1024)  # type: ignore[arg-type]
    assert counting.characters <= 6 * PIECE


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("cut", [0, 1, 12345])
def test_a_text_that_fits_is_never_too_long(raw, kind: str, cut: int) -> None:
    text = WRITES[kind](5 * PIECE)[cut:]
    count = len(raw.encode(text, add_special_tokens=False))
    assert not is_too_long(text, raw, count)


def test_a_text_that_a_tokenizer_makes_little_of_is_not_too_long() -> None:
    model = tokenizers.models.WordLevel({"word": 0, "?": 1}, unk_token="?")
    collapsing = tokenizers.Tokenizer(model)
    collapsing.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    text = "word" + " " * (4 << 20) + "x" * (1 << 20) + " word"
    assert len(collapsing.encode(text)) == 3
    assert not is_too_long(text, collapsing, 4)


def test_other_threads_go_on_while_a_text_is_encoded(raw) -> None:
    """A thread that waits for the interpreter's lock waits for all of the encoding."""
    pauses, stopped = [0.0], threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not stopped.wait(0.001):
            pauses.append(time.perf_counter() - last)
            last = time.perf_counter()

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.perf_counter()
    encode(raw, WRITES["code"](1 << 20))
    took = time.perf_counter() - began
    stopped.set()
    ticking.join()
    assert max(pauses) < took / 2


def test_the_tokenizer_refuses_it_whoever_wrote_it() -> None:
    file = (TARGET_FOLDER / "tokenizer.json").read_text()
    tokenizer = Tokenizer(file, most_tokens=1024)
    text = "word " * 100_000
    for read, written in (
        (tokenizer.encode, text),
        (tokenizer.encode_rendered, RenderedText(text)),
    ):
        with pytest.raises(InvalidRequest, match="the context of 1024 holds") as refused:
            read(written, begin=True)
        assert refused.value.field == "input"
    assert len(tokenizer.encode("word " * 1000, begin=True)) >= 1000
