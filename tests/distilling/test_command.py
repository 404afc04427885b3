"""The command: bad input ends in one line and status 2, and leaves what was there."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from commands_for_tests import Run, refusal
from outrider_server.core.errors import StartupError
from outrider_server.distilling.work_folder import WORK, held_folder

from tests.models_for_tests import edit_json

from .subjects import COMMON, talker, write_lines


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a target, prompts and replies, good and bad."""
    folder = tmp_path_factory.mktemp("place")
    talker(folder / "target")
    talker(folder / "short")
    edit_json(folder / "short" / "config.json", max_position_embeddings=8)
    write_lines(folder / "prompts", [{"prompt": "w5 w6"}])
    write_lines(folder / "long", [{"prompt": " ".join(["w5"] * 300)}])
    (folder / "empty").write_text("\n")
    write_lines(folder / "replies", [{"prompt": [2, 5], "reply": [61], "temperature": 0}])
    write_lines(folder / "one", [{"prompt": [2, 5], "reply": [6, 7], "temperature": 0}])
    (folder / "full").mkdir()
    (folder / "full" / "notes").write_text("mine")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target", "new"], "give either --tokens or --hours"),
        (["target", "new", "--tokens=1", "--hours=1"], "give either --tokens or --hours"),
        (["target", "new", "--tokens=0"], "tokens must be at least 1"),
        (["target", "new", "--hours=0"], "hours must be above 0"),
        (["target", "new", "--tokens=9", "--prompts=none"], "the file none does not exist"),
        (["target", "new", "--tokens=9", "--replies=none"], "the file none does not exist"),
        (["target", "new", "--tokens=9", "--temperatures=hot"], "temperatures must be numbers"),
        (["target", "new", "--tokens=9", "--temperatures=0,0"], "a temperature is given twice"),
        (["target", "new", "--tokens=9", "--layers=-1"], "layers must be numbers from 0 on"),
        (["target", "new", "--tokens=9", "--vocabulary=3"], "vocabulary must be at least 16"),
        (
            ["target", "new", "--tokens=9", "--objective=hope"],
            "no such objective: hope; there are agreement, kl, total-variation",
        ),
        (["target", "new", "--tokens=9", "--until=noon"], "until must be one of replies, scores"),
        (["target", "new", "--tokens=9", "--reply-tokens=3"], "reply tokens must be at least 8"),
        (["missing", "new", "--tokens=9"], "model folder missing does not exist"),
        (["target", "full", "--tokens=9"], "the output full holds something else"),
        (["target", "target", "--tokens=9"], "the output target holds something else"),
        (["target", "prompts", "--tokens=9"], "the output prompts is a file; give a folder"),
        (["target", "/proc/new", "--tokens=9"], "/proc/new cannot be written"),
        (["target", "new1", "--tokens=9", "--prompts=empty"], "empty holds no prompts"),
        (
            ["target", "new2", "--tokens=9", "--prompts=long"],
            "the context of 256 tokens has no room for a prompt and a reply of 8",
        ),
        (["short", "new3", "--tokens=9"], "the context of 8 tokens has no room for a prompt"),
        (
            ["target", "new4", "--tokens=9", "--replies=replies"],
            "replies, line 1: it has token id 61",
        ),
        (
            ["target", "new5", "--tokens=9", "--vocabulary=62"],
            "a vocabulary of 62 rows is larger than the target's of 61",
        ),
        (
            ["target", "new6", "--tokens=9", "--layers=0,2"],
            "the target has layers 0 to 1, and no layer 2",
        ),
        (
            ["target", "new7", "--tokens=2", "--replies=one"],
            "a draft needs replies to at least two prompts to learn from",
        ),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: list[str],
    message: str,
    place: Path,
    run_command: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    outcome = run_command("distill", *COMMON, *arguments)
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("distill: ")]
    assert refusal(outcome._replace(stderr="\n".join(lines))).startswith(
        f"outrider-server: {message}"
    )
    assert (place / "full" / "notes").read_text() == "mine"


def test_a_folder_that_another_run_has_is_refused(
    place: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with held_folder(Path("held")):
        outcome = run_command("distill", "target", "held", "--tokens=9", *COMMON)
    assert "another run writes into held; wait for its end" in refusal(outcome)


def test_a_lock_that_a_kill_left_behind_holds_nobody_up(tmp_path: Path) -> None:
    with held_folder(tmp_path / "draft"):
        pass
    lock = tmp_path / "draft" / WORK / "lock"
    assert lock.exists()
    with held_folder(tmp_path / "draft"), lock.open("w") as again, pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_other_settings_than_a_run_was_begun_with_are_named(tmp_path: Path) -> None:
    with held_folder(tmp_path / "draft") as folder:
        folder.begin({"seed": 0, "prompts": []})
        folder.begin({"seed": 0, "prompts": []})
        with pytest.raises(
            StartupError, match="was begun with other prompts and seed; give the same"
        ):
            folder.begin({"seed": 1, "prompts": ["a"]})
