"""Text over the wire: how it begins, how it goes on, and what the model cannot read is refused unwritten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from models_for_tests import edit_json
from outrider.v1 import session_pb2
from outrider_server.host.engine_host import EngineHost
from outrider_server.models import TARGET_FOLDER
from outrider_server.session.ledger.ledger import NewTurn
from outrider_server.session.records import OWNER
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from .harness import SessionService, Stack, running_engine
from .reference import as_one_turn
from .tiny_models import VOCABULARY_SIZE, save_model
from .wire import refusal

EXTRA = "<extra>"
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.fixture(scope="module")
def longer(models: Path) -> Iterator[EngineHost]:
    """A target whose tokenizer has a token beyond the model's rows, and takes white space away.

    Before a text it puts a space, and its post-processor a token that no configuration names.
    """
    folder = save_model(models / "longer")
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    begin = ("<|endoftext|>", 0)
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|endoftext|> $A", special_tokens=[begin]
    )
    tokenizer.add_tokens([AddedToken(EXTRA, normalized=False)])
    assert tokenizer.token_to_id(EXTRA) == VOCABULARY_SIZE
    tokenizer.save(path)
    edit_json(folder / "tokenizer_config.json", bos_token=None)
    with running_engine(folder, "target", slots=2, rows=2) as host:
        yield host


@pytest.fixture
async def service(stack: Stack, longer: EngineHost) -> SessionService:
    await stack.start_target(longer)
    return await stack.start_session(with_draft=False)


CHAT = session_pb2.ChatInput(messages=[session_pb2.ChatMessage(role="user", content=f"a {EXTRA}")])


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ({"text": f"say {EXTRA}"}, "text", EXTRA),
        ({"chat": CHAT}, "chat", EXTRA),
        ({"tokens": session_pb2.TokenInput(tokens=[VOCABULARY_SIZE])}, "tokens", "4096"),
        ({"text": " \n"}, "text", "no token"),
    ],
)
async def test_an_input_that_the_model_cannot_read_is_refused_before_anything_is_written(
    service, longer, content, field, said
):
    session = await service.client.create_session()
    steps = longer.engine.counters.verify_steps
    for _ in range(2):
        request = session_pb2.GenerateRequest(session_id=session.id, max_new_tokens=4, **content)
        refused = await refusal(service.stub.Generate(request))
        assert (refused.code, refused.reason, refused.field) == (*INVALID, field)
        assert said in refused.message
    record = await service.ledger.get_session(session.id, OWNER)
    assert (record.length, record.turn_count, record.epoch) == (0, 0, 0)
    assert longer.engine.counters.verify_steps == steps
    assert len((await session.generate("say it", max_new_tokens=4).read()).tokens) > 0


async def test_a_text_begins_as_the_tokenizer_begins_one_and_later_ones_stand_as_they_are(service):
    session = await service.client.create_session()
    first = await session.generate("lo", max_new_tokens=2, seed=1).read()
    second = await session.generate("lo", max_new_tokens=2, seed=1).read()
    held = (await session.info(with_tokens=True)).tokens
    plain = Tokenizer.from_file(str(TARGET_FOLDER / "tokenizer.json"))
    assert held[: first.started.prompt_tokens] == (0, *plain.encode(" lo").ids)
    start = second.started.start_position
    assert held[start - second.started.prompt_tokens : start] == (*plain.encode("lo").ids,)


async def test_a_session_that_holds_such_a_token_says_so_and_can_be_rewound(service, longer):
    """One of a service that committed it before it was refused."""
    other = await service.client.create_session()
    await other.generate("x", max_new_tokens=4, seed=1).read()
    parameters = (await service.ledger.turns(other.id))[0].parameters
    session = await service.client.create_session()
    request = session_pb2.GenerateRequest(session_id=session.id, text="x", max_new_tokens=4)
    lease = await service.ledger.take_over(session.id, force=True)
    turn = NewTurn("of before", (17, 5, VOCABULARY_SIZE, 3), parameters)
    await service.ledger.begin_turn(session.id, lease.epoch, 0, turn)
    calls: list[Any] = [
        service.stub.Generate(request),
        service.stub.Attach(session_pb2.AttachRequest(session_id=session.id)),
    ]
    for call in calls:
        refused = await refusal(call)
        assert (refused.code, refused.reason, refused.field) == (*INVALID, "session_id")
        assert "rewind it to position 2" in refused.message
    assert (await session.info(with_tokens=True)).tokens == (17, 5, VOCABULARY_SIZE, 3)
    await session.rewind(2)
    reply = await session.generate([9], max_new_tokens=4, seed=1).read()
    assert reply.tokens == await as_one_turn(service.client, session, reply)
