"""Ranks that share a target: the tokens of one process, a clean end, and no rank that outlives another.

`OUTRIDER_TEST_EXITS=10` starts and ends the ranks ten times by each of two signals, instead of once.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import outrider
import pytest
from models_for_tests import save_folder, tiny_llama

from .processes import Service, Services, connected, reply_to, until

EXITS = int(os.environ.get("OUTRIDER_TEST_EXITS", "1"))
RANKS = "--tensor-parallel=2"
ENGINE = ["--slots=2", "--threads=1", "--prefill-width=16"]
PROMPTS = [[(7 * prompt + 11 * index) % 61 for index in range(4 + prompt)] for prompt in range(13)]
SAMPLED = {"temperature": 1.0, "seed": 5, "repetition_penalty": 1.2, "top_p": 0.9}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama in float32 whose four key heads two ranks can share."""
    folder = save_folder(tmp_path_factory.mktemp("models") / "tiny")
    tiny_llama(num_key_value_heads=4, hidden_size=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(tmp_path_factory.mktemp("ranks"))
    yield services
    services.close()


@pytest.fixture(scope="module")
def alone(running: Services, model: Path) -> Iterator[outrider.Client]:
    """A session service over a target of one process."""
    target = start(running, model)
    service = running.session(target.wait_until_ready(), ledger="alone")
    with connected(service.wait_until_ready()) as client:
        yield client


@pytest.fixture(scope="module")
def target(running: Services, model: Path) -> Service:
    """A target of two ranks."""
    return start(running, model, RANKS)


@pytest.fixture(scope="module")
def shared(running: Services, target: Service, model: Path) -> Iterator[outrider.Client]:
    """A session service over the target of two ranks, with a draft of two ranks over the same model."""
    draft = running.start("draft", f"--model={model}", "--listen=127.0.0.1:0", *ENGINE, RANKS)
    addresses = target.wait_until_ready(), draft.wait_until_ready()
    service = running.session(*addresses, ledger="shared")
    with connected(service.wait_until_ready()) as client:
        yield client


def start(running: Services, model: Path, *options: str) -> Service:
    listen = "--listen=127.0.0.1:0"
    return running.start("target", f"--model={model}", listen, *ENGINE, *options)


def others(service: Service) -> list[int]:
    """The processes that rank 0 started."""
    pid = service.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ignores(pid: int, number: signal.Signals) -> bool:
    """True where a signal does nothing to a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(r"^SigIgn:\s*(\w+)$", status, flags=re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def ended(pid: int) -> bool:
    """True once a process runs no more, whoever has to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def reply_once_back(
    conversation: outrider.Session, prompt: list[int], **options: Any
) -> outrider.Reply | None:
    """A turn, or None while the target is not reached again; a turn refused so leaves nothing behind."""
    try:
        return conversation.generate(prompt, **options).read()
    except outrider.UnavailableError:
        return None


def test_greedy_tokens_are_those_of_one_process_over_13_prompts(alone, shared):
    assert shared.describe().target.ranks == 2
    assert shared.describe().draft.ranks == 2
    assert alone.describe().target.ranks == 1
    options = {"max_new_tokens": 24, "temperature": 0.0, "draft": "off", "ignore_end_tokens": True}
    for prompt in PROMPTS:
        expected = reply_to(alone, prompt, **options).tokens
        assert len(expected) == 24
        assert reply_to(shared, prompt, **options).tokens == expected


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, SAMPLED])
def test_speculation_changes_no_token_of_a_target_of_two_ranks(shared, sampling):
    accepted = 0
    for prompt in PROMPTS[:4]:
        options = {"max_new_tokens": 24, **sampling}
        expected = reply_to(shared, prompt, draft="off", **options).tokens
        for draft in ("model", "ngram", "auto"):
            reply = reply_to(shared, prompt, draft=draft, loop="synchronous", **options)
            assert reply.tokens == expected
            accepted += reply.summary.accepted
    assert accepted > 24, "the draft was of no use, so this test says little"


def test_the_bits_of_two_ranks_do_not_depend_on_the_shape_of_a_step(shared):
    described = shared.describe().target
    assert described.shape_audit.all_interchangeable
    assert described.compile_note == "a model that ranks share runs eagerly"
    assert described.kernel_note


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
def test_every_rank_ends_with_status_0_after_a_signal(running, model, way):
    for _ in range(EXITS):
        target = start(running, model, RANKS)
        target.wait_until_ready()
        (other,) = others(target)
        assert ignores(other, way)
        os.kill(other, way)  # a signal to the whole group asks rank 0 alone
        target.process.send_signal(way)
        assert (target.wait(), target.errors) == (0, "")
        assert ended(other)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_group_and_the_session_goes_on_once_it_is_back(
    running, target, shared, alone, rank
):
    options = {"max_new_tokens": 20, "draft": "off", "seed": 3}
    unbroken, conversation = alone.create_session(), shared.create_session()
    for client in (unbroken, conversation):
        client.generate(PROMPTS[0], **options).read()
    (other,) = others(target)
    os.kill(other if rank else target.process.pid, signal.SIGKILL)
    assert target.wait() == (1 if rank else -signal.SIGKILL)
    until(lambda: ended(other))
    assert target.errors == f"outrider: rank {rank} of 2 is gone, and the others end\n"
    with pytest.raises(outrider.UnavailableError):
        conversation.generate(PROMPTS[1], **options).read()

    target.start_again()
    target.wait_until_ready()
    reply = until(lambda: reply_once_back(conversation, PROMPTS[1], **options))
    assert reply.tokens == unbroken.generate(PROMPTS[1], **options).read().tokens
    assert conversation.position == unbroken.position


def test_a_rank_that_starts_ends_with_rank_0(running, model):
    target = start(running, model, RANKS)
    (other,) = until(lambda: others(target))
    target.kill()
    until(lambda: ended(other))


def test_a_rank_killed_in_the_middle_of_a_turn_loses_no_token_that_was_seen(target, shared):
    options = {"max_new_tokens": 200, "draft": "off", "temperature": 0.0}
    expected = reply_to(shared, PROMPTS[2], **options).tokens
    conversation = shared.create_session()
    reply = conversation.generate(PROMPTS[2], **options)
    for _ in range(5):
        next(reply)
    os.kill(others(target)[0], signal.SIGKILL)
    with pytest.raises(outrider.UnavailableError):
        reply.read()
    assert target.wait() == 1
    assert reply.tokens == expected[: len(reply.tokens)]
    target.start_again()
    target.wait_until_ready()
    assert until(lambda: reply_once_back(conversation, PROMPTS[3], **options)).tokens


def test_the_same_command_runs_under_torchrun(running, model, alone):
    command = ["outrider_server", "target", f"--model={model}", "--listen=127.0.0.1:0"]
    torchrun = ["--standalone", "--nproc-per-node=2", "-m", *command, *ENGINE, RANKS]
    target = running.start(*torchrun, module="torch.distributed.run")
    service = running.session(target.wait_until_ready(), ledger="torchrun")
    with connected(service.wait_until_ready()) as client:
        options = {"max_new_tokens": 12, "draft": "off", "temperature": 0.0}
        expected = reply_to(alone, PROMPTS[5], **options).tokens
        assert reply_to(client, PROMPTS[5], **options).tokens == expected
    service.terminate()
    leader = next(
        pid
        for pid in others(target)
        if b"\0RANK=0\0" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    )
    os.kill(leader, signal.SIGTERM)
    assert target.wait() == 0, target.errors


REFUSALS = {
    "must be 1 to 64": ("--tensor-parallel=0",),
    "cannot be shared evenly by 3 ranks": ("--tensor-parallel=3",),
    "quantized weights cannot be shared": (RANKS, "--quantization=int8"),
    "each on a device of its own, not on cuda:0": (RANKS, "--device=cuda:0"),
    "longer than the model's": (RANKS, "--max-context-tokens=100000"),
}


def test_what_ranks_cannot_share_is_refused_in_one_line(running, model):
    started = [(words, start(running, model, *options)) for words, options in REFUSALS.items()]
    for words, service in started:
        assert (service.wait(), service.address) == (2, ""), service.errors
        assert len(service.errors.splitlines()) == 1, service.errors
        assert service.errors.startswith("outrider-server: ")
        assert words in service.errors
