"""A chat of several turns reads, token for token, what the template makes of the whole conversation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import outrider
import pytest
from outrider_server.host.engine_host import EngineHost

from .chat_styles import STYLES, Style
from .harness import SessionService, Stack, until_idle

QUESTIONS = ("What is a list?", "And a dict?", "  Say it\nshorter.  ", "Why?", "Thanks.")


@dataclass
class Talk:
    """A chat on the service, and the messages as a user of transformers would keep them."""

    service: SessionService
    style: Style
    session: outrider.AsyncSession
    messages: list[dict[str, Any]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peer = self.style.peer()
        self.end_token = self.peer.convert_tokens_to_ids(self.style.end)

    def whole(self, **options: Any) -> list[int]:
        """What transformers reads."""
        rendered = self.peer.apply_chat_template(
            self.messages, add_generation_prompt=True, **options
        )
        return rendered["input_ids"]

    async def say(
        self, *messages: dict[str, Any], leave_after: int | None = None, **options: Any
    ) -> outrider.AsyncReply:
        """One turn, and all that it has to hold to."""
        self.messages += messages
        kept_before = self.held
        template_options = options.get("template_options") or {}
        expected = self.whole(**template_options)
        options = {"max_new_tokens": 10, "seed": len(self.held), "loop": "synchronous"} | options
        reply = self.session.generate(list(messages), **options)
        if leave_after is None:
            await reply.read()
        else:
            for _ in range(leave_after):
                await anext(reply)
            reply.cancel()
        info = await until_idle(self.session)
        started = reply.started
        assert list(info.tokens[: started.start_position]) == expected
        agreed = common(kept_before, expected)
        assert started.kept_tokens == min(agreed, len(expected) - 1)
        assert started.kept_tokens + started.prompt_tokens == len(expected)
        assert started.rewound_tokens == len(kept_before) - started.kept_tokens
        self.held = list(info.tokens)
        if leave_after is None:
            summary = reply.summary
            assert summary.rewound_tokens == started.rewound_tokens
            assert summary.kept_tokens == started.kept_tokens
            assert summary.prefilled_tokens <= started.prompt_tokens + 1, "what stays is not read"
            assert list(info.tokens[started.start_position :]) == reply.tokens
            text = reply.text
        else:
            committed = list(info.tokens[started.start_position :])
            assert committed[: len(reply.tokens)] == reply.tokens
            text = self.peer.decode(committed, skip_special_tokens=True).rstrip("\ufffd")
            assert text.startswith(reply.text)
        self.messages.append({"role": "assistant", "content": text})
        return reply

    async def in_one_turn(self, reply: outrider.AsyncReply, **options: Any) -> list[int]:
        """The tokens of the last reply in a session that is given the conversation at once."""
        session = await self.service.client.create_session()
        again = await session.generate(
            self.messages[:-1], seed=reply.started.seed, draft="off", **options
        ).read()
        assert again.started.start_position == reply.started.start_position
        return again.tokens


def common(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.fixture(params=STYLES)
async def talk(
    request: pytest.FixtureRequest, stack: Stack, target: EngineHost, draft: EngineHost
) -> Talk:
    return await started(stack, target, draft, STYLES[request.param])


async def started(stack: Stack, target: EngineHost, draft: EngineHost, style: Style) -> Talk:
    await stack.start_target(target)
    await stack.start_draft(draft)
    service = await stack.start_session(served=style.served)
    return Talk(service, style, await service.client.create_session())


async def test_a_chat_reads_what_transformers_makes_of_the_whole_conversation(talk: Talk) -> None:
    thought = dict.fromkeys(map(talk.peer.convert_tokens_to_ids, talk.style.marks[1:]), 7.5)
    never = {talk.end_token: -100.0}
    first, second, third, fourth, fifth = map(user, QUESTIONS)
    await talk.say(first, logit_bias=thought | never)
    await talk.say(second, logit_bias={talk.end_token: 100.0})
    assert talk.messages[-1]["content"] == "", "ended at once"
    await talk.say(third, stop=["e", "a", "o", "t"], max_new_tokens=40, logit_bias=never)
    await talk.say(fourth, logit_bias=thought | {talk.end_token: 8.0}, max_new_tokens=40)
    options = {"logit_bias": thought, "max_new_tokens": 16}
    last = (
        await talk.say({"role": "assistant", "content": "Of course."}, fifth, **options)
        if ("take turns" not in talk.style.template)
        else await talk.say(fifth, **options)
    )
    assert last.tokens == await talk.in_one_turn(last, **options)
    messages = await talk.session.messages()
    assert [{"role": m.role, "content": m.content} for m in messages] == talk.messages


# One style, and all that can happen to a conversation


@pytest.fixture
async def thinker(stack: Stack, target: EngineHost, draft: EngineHost) -> Talk:
    """A chat whose template leaves out what earlier replies thought."""
    return await started(stack, target, draft, STYLES["forgets what was thought"])


def thinking(talk: Talk) -> dict[str, Any]:
    """Options of a turn that thinks, and goes on to its limit."""
    end_thought = talk.peer.convert_tokens_to_ids("</think>")
    return {"logit_bias": {end_thought: 7.5, talk.end_token: -100.0}, "max_new_tokens": 12}


async def state(talk: Talk) -> Any:
    """All that a client sees of the session, but when it was written to."""
    info = await talk.session.info(with_tokens=True)
    return info.tokens, info.turn_count, await talk.session.messages()


async def test_a_reply_that_was_left_is_what_was_shown_of_it(thinker: Talk) -> None:
    first, second, third, *_ = map(user, QUESTIONS)
    options = thinking(thinker) | {"max_new_tokens": 200}
    await thinker.say(first, leave_after=3, **options)
    reply = await thinker.say(second, **thinking(thinker))
    assert reply.tokens == await thinker.in_one_turn(reply, **thinking(thinker))
    await thinker.say(third, **thinking(thinker))


async def test_earlier_turns_are_told_again_though_the_session_holds_others_in_their_place(
    thinker: Talk,
) -> None:
    replies = [await thinker.say(user(text), **thinking(thinker)) for text in QUESTIONS[:3]]
    assert all(reply.summary.rewound_tokens for reply in replies[1:])
    for reply, question in zip(replies, QUESTIONS, strict=False):
        again = await thinker.session.attach(reply.started.request_id).read()
        repeated = await thinker.session.generate(
            [user(question)],
            request_id=reply.started.request_id,
            seed=reply.started.seed,
            loop="synchronous",
            **thinking(thinker),
        ).read()
        for told in (again, repeated):
            assert (told.tokens, told.text) == (reply.tokens, reply.text)
            assert told.started == reply.started
            assert told.summary.position == reply.summary.position
    other = thinker.session.generate([user("Else?")], request_id=replies[0].started.request_id)
    with pytest.raises(outrider.AlreadyExistsError, match="another input"):
        await other.read()
    assert list((await state(thinker))[0]) == thinker.held


async def test_a_turn_taken_back_gives_back_the_session_as_it_was_before(thinker: Talk) -> None:
    first, second, third, *_ = map(user, QUESTIONS)
    await thinker.say(first, **thinking(thinker))
    await thinker.say(second, **thinking(thinker))
    before = await state(thinker)
    last = await thinker.say(third, **thinking(thinker))
    assert last.summary.rewound_tokens
    again = await (await thinker.session.regenerate(seed=last.started.seed)).read()
    assert again.tokens == last.tokens
    assert again.started.kept_tokens == last.started.kept_tokens
    assert again.started.rewound_tokens == last.started.rewound_tokens
    for seed in (1, 2):  # the second finds the turn gone already
        await thinker.session.regenerate(seed=seed)
        assert await state(thinker) == before


async def test_a_rewind_leaves_a_conversation_that_goes_on_from_what_is_left(
    thinker: Talk,
) -> None:
    first, second, third, *_ = map(user, QUESTIONS)
    await thinker.say(first, **thinking(thinker))
    after_first = list(thinker.messages)
    reply = await thinker.say(second, **thinking(thinker))
    start, length = reply.started.start_position, len(reply.tokens)
    for position, left in (
        (start + length - 4, reply.events[: length - 4]),
        (start, []),
        (start - 1, None),
        (reply.started.kept_tokens, None),
    ):
        copy = await thinker.session.fork(position)
        await thinker.session.rewind(position)
        if left is not None:
            again = await thinker.session.attach(reply.started.request_id).read()
            assert again.tokens == [event.token for event in left], "a cut turn does not go on"
        kept = [second, {"role": "assistant", "content": "".join(e.text for e in left or ())}]
        expected = after_first + (kept if left is not None else [])
        for session in (thinker.session, copy):
            messages = await session.messages()
            assert [{"role": m.role, "content": m.content} for m in messages] == expected
        thinker.messages = expected
        thinker.held = thinker.held[:position]
    copied = Talk(thinker.service, thinker.style, copy, list(expected), list(thinker.held))
    one = await thinker.say(third, **thinking(thinker))
    other = await copied.say(third, **thinking(thinker))
    assert one.tokens == other.tokens


async def test_other_input_ends_a_conversation_and_stays_as_it_is(thinker: Talk) -> None:
    await thinker.say(user("Hello"), **thinking(thinker))
    await thinker.session.generate("def f():", max_new_tokens=4, seed=1).read()
    await thinker.session.generate([user("Go on")], **thinking(thinker)).read()
    await thinker.session.generate("def g():", max_new_tokens=4, seed=1).read()
    assert await thinker.session.messages() == ()
    opaque = list((await state(thinker))[0])
    thinker.messages = []
    for text in QUESTIONS[:3]:
        thinker.messages.append(user(text))
        before = list((await state(thinker))[0])
        reply = await thinker.session.generate([user(text)], seed=2, **thinking(thinker)).read()
        held = (await state(thinker))[0]
        begin, *rendered = thinker.whole()
        assert begin == thinker.peer.bos_token_id
        assert list(held[: reply.started.start_position]) == opaque + rendered
        assert reply.started.kept_tokens == common(before, opaque + rendered)
        thinker.messages.append({"role": "assistant", "content": reply.text})


@pytest.mark.parametrize(
    ("style", "messages", "options"),
    [
        ("instructions that alternate", [{"role": "assistant", "content": "x"}], {}),
        ("a begin token and headers", [user("word " * 400), user("word " * 360)], {}),
        ("a begin token and headers", [user("x")], {"request_id": "first"}),
    ],
)
async def test_a_chat_that_is_refused_leaves_nothing(
    stack: Stack, target: EngineHost, draft: EngineHost, style: str, messages: Any, options: Any
) -> None:
    talk = await started(stack, target, draft, STYLES[style])
    await talk.say(user("word " * 300), request_id="first")
    before = await state(talk)
    ledger = talk.service.ledger
    record = await ledger.get_session(talk.session.id, "")
    error = outrider.AlreadyExistsError if options else outrider.InvalidRequestError
    with pytest.raises(error):
        await talk.session.generate(messages, seed=1, max_new_tokens=2, **options).read()
    assert await state(talk) == before
    assert await ledger.get_session(talk.session.id, "") == record
    assert [turn.reply for turn in await ledger.turns(talk.session.id)] == [None]
    await talk.say(user("Go on."))


async def test_a_conversation_goes_on_in_another_service_on_the_same_ledger(
    thinker: Talk, stack: Stack
) -> None:
    first, second, third, *_ = map(user, QUESTIONS)
    await thinker.say(first, **thinking(thinker))
    await thinker.say(second, leave_after=2, **(thinking(thinker) | {"max_new_tokens": 200}))
    await stack.kill("session")
    service = await stack.start_session(served=thinker.style.served)
    thinker.service = service
    thinker.session = await service.client.open_session(thinker.session.id)
    reply = await thinker.say(third, **thinking(thinker))
    assert reply.tokens == await thinker.in_one_turn(reply, **thinking(thinker))


async def test_options_of_the_template_are_those_of_the_turn_that_asks(
    stack: Stack, target: EngineHost, draft: EngineHost
) -> None:
    style = STYLES["forgets what was thought before the last question"]
    talk = await started(stack, target, draft, style)
    await talk.say(user("Quick?"), template_options={"quick": True})
    await talk.say(user("Slow?"))
    await talk.say(user("Quick again?"), template_options={"quick": True})
