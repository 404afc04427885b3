"""Peers and baselines on tiny models: as many tokens as asked for, and the same where they must agree."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from models_for_tests import save_folder
from outrider_bench.colocated import ColocatedPair
from outrider_bench.peer_process import PeerProcess, PeerSystem, how_it_ended
from outrider_bench.peers import Contestant
from outrider_bench.step_peer import EngineBench
from outrider_bench.tasks import Outcome, Task
from outrider_bench.transformers_peer import TransformersPeer
from outrider_server.core.errors import StartupError
from safetensors.torch import load_file

from .measured import task

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
ASKED: dict[str, Any] = {"prompt": PROMPT, "seed": 1, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def pair(folder: Path) -> AsyncIterator[ColocatedPair]:
    pair = await ColocatedPair.start(folder, folder, 128)
    yield pair
    await pair.stop()


@pytest.fixture
async def engines(folder: Path) -> AsyncIterator[EngineBench]:
    engines = await EngineBench.start(folder, folder, 128)
    yield engines
    await engines.stop()


class Clocked:
    """A system that takes a given time for its second run and any later one."""

    ready_seconds = 1.0

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self._seconds = seconds
        self.asked: list[int] = []

    async def run(self, asked: Task) -> Outcome:
        self.asked.append(asked.tokens)
        seconds = self._seconds if len(self.asked) > 1 else 100.0
        return Outcome((1,) * asked.tokens, seconds)


async def test_the_fastest_setting_competes_and_its_first_run_does_not_count() -> None:
    systems = [Clocked("slow", 3.0), Clocked("fast", 1.0), Clocked("middle", 2.0)]
    assert await Contestant(systems).fastest(task(tokens=48)) is systems[1]
    assert [system.asked[-1] for system in systems] == [48, 48, 48]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(
    "mode",
    [
        {"mode": "plain"},
        {"mode": "assisted", "guesses": 3, "threshold": 0.0},
        {"mode": "assisted", "guesses": 5, "threshold": 0.4},
        {"mode": "lookup", "guesses": 5},
    ],
)
def test_transformers_gives_as_many_tokens_as_asked_for(
    folder: Path, mode: dict[str, Any], temperature: float
) -> None:
    question = ASKED | {"tokens": 21, "temperature": temperature, "chat": False}
    answer = TransformersPeer(folder, folder).answer(mode | question)
    assert len(answer["tokens"]) == 21
    assert answer["seconds"] > 0
    assert 0 <= answer["accepted"] < 21


@pytest.mark.parametrize(
    "mode", [{"mode": "plain"}, {"mode": "assisted", "guesses": 5, "threshold": 0.0}]
)
def test_a_chat_with_transformers_ends_at_the_end_token(
    folder: Path, tmp_path: Path, mode: dict[str, Any]
) -> None:
    """The end token is one that the model is known to draw, within the run of accepted guesses or not."""
    asked = mode | ASKED | {"tokens": 21, "temperature": 0.0}
    whole = TransformersPeer(folder, folder).answer(asked | {"chat": False})["tokens"]
    ended = shutil.copytree(folder, tmp_path / "ended")
    settings = json.loads((ended / "generation_config.json").read_bytes())
    settings["eos_token_id"] = whole[9]
    (ended / "generation_config.json").write_text(json.dumps(settings))
    answer = TransformersPeer(ended, ended).answer(asked | {"chat": True})
    assert answer["tokens"] == whole[: whole.index(whole[9]) + 1]
    assert 0 < answer["first_seconds"] <= answer["seconds"]


def test_what_the_draft_says_alike_is_accepted(folder: Path) -> None:
    """The target as its own draft: every step of 3 guesses brings 4 tokens."""
    mode = {"mode": "assisted", "guesses": 3, "threshold": 0.0}
    asked = ASKED | {"tokens": 16, "temperature": 0.0, "chat": False}
    peer = TransformersPeer(folder, folder)
    assert peer.answer(asked | mode)["accepted"] == 12
    assert peer.answer(asked | {"mode": "plain"})["accepted"] == 0


async def test_a_peer_may_run_in_another_python() -> None:
    """This one, which has no openvino-genai, is told so by the peer's own module."""
    with pytest.raises(
        StartupError, match="openvino_peer cannot go on: OpenVINO GenAI is not installed"
    ):
        await PeerProcess.start(
            "openvino_peer",
            "outrider_bench.openvino_peer",
            ["--target=none.gguf"],
            Path(sys.executable),
        )


def environment_of(process_id: int) -> list[bytes]:
    """The variables that a process was started with."""
    return Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")


async def test_a_peer_gets_its_variables(folder: Path) -> None:
    peer = await PeerProcess.start(
        "co-located",
        "outrider_bench.colocated",
        [f"--target={folder}", f"--draft={folder}"],
        variables={"OUTRIDER_PEER": "variable"},
    )
    assert b"OUTRIDER_PEER=variable" in environment_of(peer._process.pid)
    assert peer.ready_seconds > 0
    await peer.stop()


async def test_a_peer_that_a_signal_ends_is_told_from_one_that_says_why(folder: Path) -> None:
    peer = await PeerProcess.start(
        "co-located", "outrider_bench.colocated", [f"--target={folder}", f"--draft={folder}"]
    )
    peer._process.send_signal(signal.SIGSEGV)
    with pytest.raises(StartupError, match="co-located was ended by SIGSEGV"):
        await peer.ask({})
    assert how_it_ended(1) == "ended; its message is above"


@pytest.mark.parametrize(("loop", "window"), [("synchronous", 5), ("run_ahead", 7)])
async def test_the_co_located_pair_gives_the_same_tokens_in_every_setting(
    pair: ColocatedPair, loop: str, window: int
) -> None:
    question = {"prompt": PROMPT, "tokens": 33, "temperature": 0.7, "seed": 4}
    plain = await pair.run(question | {"loop": "synchronous", "window": 0})
    answer = await pair.run(question | {"loop": loop, "window": window})
    assert answer["tokens"] == plain["tokens"]
    assert len(answer["tokens"]) == 33


async def test_the_engine_steps_all_sessions_at_once(engines: EngineBench) -> None:
    question = {"what": "verify", "proposed": 7, "prompt": PROMPT, "steps": 3}
    for sessions in (1, 2, 8):
        answer = await engines.run(question | {"sessions": sessions})
        assert len(answer["ms"]) == 3
        assert min(answer["ms"]) > 0
        assert answer["rows_per_step"] == sessions


async def test_the_engine_tells_its_weights_and_its_cache(
    engines: EngineBench, folder: Path
) -> None:
    """2 layers, 2 key-value heads of 8 values, keys and values, 4 bytes each."""
    facts = await engines.run({"what": "facts"})
    assert facts["position_bytes"] == 2 * 2 * 2 * 8 * 4
    assert facts["cache_bytes"] >= facts["position_bytes"] * 8 * 128
    weights = load_file(folder / "model.safetensors").values()
    assert facts["parameter_bytes"] == sum(weight.nbytes for weight in weights)


async def test_the_engine_times_prefill_and_guesses(engines: EngineBench) -> None:
    prefill = await engines.run({"what": "prefill", "prompt": PROMPT * 12})
    assert prefill["tokens"] == 96
    assert prefill["ms"] > 0
    assert (await engines.run({"what": "draft", "prompt": PROMPT}))["ms"] > 0


async def test_a_peer_answers_in_a_process_of_its_own(folder: Path) -> None:
    peer = await PeerProcess.start(
        "co-located", "outrider_bench.colocated", [f"--target={folder}", f"--draft={folder}"]
    )
    system = PeerSystem("co-located", peer, {"loop": "synchronous", "window": 3})
    outcome = await system.run(Task("text", tuple(PROMPT), 9, 0.0, 1))
    assert len(outcome.tokens) == 9
    with pytest.raises(StartupError, match="co-located cannot go on: KeyError"):
        await peer.ask({"prompt": PROMPT})
    await peer.stop()


async def test_a_peer_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    arguments = [f"--target={missing}", f"--draft={missing}"]
    with pytest.raises(StartupError, match=f"co-located cannot go on: model folder {missing} does"):
        await PeerProcess.start("co-located", "outrider_bench.colocated", arguments)
