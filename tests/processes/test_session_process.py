"""The session service's process may end at any time: sessions go on by id from their ledger."""

from __future__ import annotations

import threading

import grpc
import outrider
import pytest
from outrider_server.models import held_out_prompts

from .processes import Services, connected, has_loaded, reply_to, until

PROMPT = held_out_prompts()[30]
LONG = {"max_new_tokens": 300, "seed": 8, "logit_bias": {0: -100.0}}


def test_a_session_service_that_has_run_turns_has_loaded_no_model_library(client, session, target):
    reply_to(client, "import os", max_new_tokens=4)
    assert has_loaded(target.process.pid, "libtorch")
    assert not has_loaded(session.process.pid, "libtorch")


@pytest.mark.parametrize("way", ["terminate", "kill"])
def test_a_restarted_session_service_goes_on_by_id(client, services: Services, target, draft, way):
    addresses = (target.address, draft.address)
    first = services.session(*addresses, ledger=way)
    with connected(first.wait_until_ready()) as early:
        conversation = early.create_session()
        conversation.generate(PROMPT, max_new_tokens=20, seed=1).read()
    getattr(first, way)()
    second = services.session(*addresses, ledger=way)
    with connected(second.wait_until_ready()) as late:
        again = late.open_session(conversation.id)
        assert again.position == conversation.position
        reply = again.generate("\n\ndef g(", max_new_tokens=20, seed=2).read()
    unbroken = client.create_session()
    unbroken.generate(PROMPT, max_new_tokens=20, seed=1).read()
    assert reply.tokens == unbroken.generate("\n\ndef g(", max_new_tokens=20, seed=2).read().tokens
    assert reply.summary.prefilled_tokens <= reply.summary.prompt_tokens + 1


def test_a_killed_session_service_keeps_every_token_that_was_seen(
    client, services: Services, target, draft
):
    addresses = (target.address, draft.address)
    first = services.session(*addresses, ledger="seen")
    with connected(first.wait_until_ready(), resume_ms=200) as early:
        reply = early.create_session().generate(PROMPT, **LONG)
        for _ in range(30):
            next(reply)
        (listed,) = early.sessions()
        first.kill()
        with pytest.raises(outrider.OutriderError):
            reply.read()
    second = services.session(*addresses, ledger="seen")
    with connected(second.wait_until_ready()) as late:
        tokens = late.get_session(listed.id, with_tokens=True).tokens
        start = reply.started.start_position
        assert list(tokens[start : start + len(reply.tokens)]) == reply.tokens
        expected = reply_to(client, PROMPT, draft="off", **LONG).tokens
        assert list(tokens[start:]) == expected[: len(tokens) - start]
        assert len(late.open_session(listed.id).generate("x", max_new_tokens=4).read().tokens) <= 4


def test_sigterm_lets_a_running_turn_end_and_refuses_new_ones(
    client, services: Services, target, draft
):
    service = services.session(target.address, draft.address, ledger="drain")
    caller_of = connected(service.wait_until_ready())
    with caller_of as caller, connected(service.address, resume_ms=200) as other:
        waiting = other.create_session()
        reply = caller.create_session().generate(PROMPT, **LONG)
        next(reply)
        status: list[int] = []
        stopping = threading.Thread(target=lambda: status.append(service.terminate()))
        stopping.start()

        def refused() -> bool:
            try:
                other.describe()
            except outrider.UnavailableError as error:
                return error.code is grpc.StatusCode.UNAVAILABLE
            except outrider.CallCancelledError:
                return False  # gRPC cancels a call that arrives in the very moment of the shutdown
            return False

        until(refused)
        with pytest.raises(outrider.UnavailableError):
            waiting.generate("x").read()
        reply.read()
        assert len(reply.tokens) == 300
        assert reply.summary.finish_reason is outrider.FinishReason.LENGTH
        stopping.join()
        assert status == [0]
    assert reply.tokens == reply_to(client, PROMPT, draft="off", **LONG).tokens
