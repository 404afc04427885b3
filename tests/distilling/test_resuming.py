"""Real processes that are killed in each stage, or find no room, and go on: the same weights bit for bit."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from outrider_server.distilling.scores import REPLY

from .subjects import COMMON, command, environment, run_distill, talker

pytestmark = pytest.mark.processes
BUDGET = ("--tokens=1500", "--passes=10", "--vocabulary=40")
WAIT_SECONDS = 120.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talker(tmp_path_factory.mktemp("models") / "talker")


@pytest.fixture(scope="module")
def whole(target: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The draft of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("drafts") / "draft"
    outcome = run_distill(target, output, *BUDGET, *COMMON, cache=cache)
    assert outcome.returncode == 0, outcome.stderr
    return output


def begun_replies(work: Path) -> bool:
    path = work / "replies.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") >= 20


def begun_scores(work: Path) -> bool:
    path = work / "scores" / "replies.bin"
    return path.exists() and path.stat().st_size >= 5 * REPLY.itemsize


def begun_training(work: Path) -> bool:
    return (work / "training" / "checkpoint.pt").exists()


def kill_once(arguments: tuple[str | Path, ...], cache: Path, is_begun: Callable[[], bool]) -> bool:
    """Runs the command, and kills it once something is so; False where it ended before."""
    process = subprocess.Popen(
        command(*arguments),
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + WAIT_SECONDS
    while process.poll() is None and not is_begun():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def weights(output: Path) -> bytes:
    return (output / "model.safetensors").read_bytes()


def test_killed_in_each_stage_a_run_ends_with_the_same_weights(
    target: Path, cache: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "draft"
    arguments = (target, output, *BUDGET, *COMMON)
    work = output / ".distill"
    for is_begun in (begun_replies, begun_scores, begun_training):
        assert kill_once(arguments, cache, lambda is_begun=is_begun: is_begun(work))
        assert not (output / "config.json").exists()
    outcome = run_distill(*arguments, cache=cache)
    assert outcome.returncode == 0, outcome.stderr
    for name in ("replies.jsonl", "scores/positions.bin", "scores/tokens.bin"):
        assert (work / name).read_bytes() == (whole / ".distill" / name).read_bytes()
    assert weights(output) == weights(whole)


def test_another_seed_gives_other_weights(
    target: Path, cache: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "draft"
    outcome = run_distill(target, output, *BUDGET, *COMMON, "--seed=1", cache=cache)
    assert outcome.returncode == 0, outcome.stderr
    assert weights(output) != weights(whole)


def test_a_finished_run_is_finished_at_once(target: Path, cache: Path, whole: Path) -> None:
    before = weights(whole)
    outcome = run_distill(target, whole, *BUDGET, *COMMON, cache=cache)
    assert outcome.returncode == 0, outcome.stderr
    assert weights(whole) == before


@pytest.mark.parametrize("room", [4_000, 400_000])
def test_a_disk_that_fills_ends_in_one_line_and_nothing_is_lost(
    room: int, target: Path, cache: Path, whole: Path, tmp_path: Path
) -> None:
    """Files may grow to a size only, which is refused as a full disk is: in each stage, by the size."""
    output = tmp_path / "draft"
    arguments = (target, output, *BUDGET, *COMMON)
    outcome = subprocess.run(
        command(*arguments),
        env=environment(cache),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    *_, line = outcome.stderr.splitlines()
    assert outcome.returncode == 2, outcome.stderr
    assert line.startswith("outrider-server: no room is left to write ")
    assert line.endswith("make room and run the same command again")
    assert run_distill(*arguments, cache=cache).returncode == 0
    assert weights(output) == weights(whole)


def test_the_folder_is_a_model_and_says_what_it_was_made_of(whole: Path) -> None:
    config = json.loads((whole / "config.json").read_text())
    assert config["vocab_size"] == 40
    assert config["draft_vocab"] == {"target_vocab_size": 61, "unknown": 39}
    card = (whole / "MODEL_CARD.md").read_text()
    for words in ("the target's own prompts", "| objective | agreement |", "--passes=10"):
        assert words in card


def test_what_the_clock_has_decided_is_kept(target: Path, cache: Path, tmp_path: Path) -> None:
    output = tmp_path / "draft"
    arguments = (target, output, "--hours=0.003", "--vocabulary=40", *COMMON)
    work = output / ".distill"
    fixed = work / "training" / "fixed.json"
    assert kill_once(arguments, cache, lambda: begun_training(work))
    plan = json.loads((work / "plan.json").read_text())
    decided = plan["replies"], plan["reply_tokens"], fixed.read_text()
    outcome = run_distill(*arguments, cache=cache)
    assert outcome.returncode == 0, outcome.stderr
    plan = json.loads((work / "plan.json").read_text())
    assert (plan["replies"], plan["reply_tokens"], fixed.read_text()) == decided
    assert plan["seconds"] > 0.003 * 3600 / 2
    assert (output / "config.json").exists()
