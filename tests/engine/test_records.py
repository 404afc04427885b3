"""What a start keeps for the next one: believed where it is whole and of the same facts, and nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from outrider_server.engine.records import MOST_KEPT, Records

OUTCOME = {"kernel": "sdpa", "buckets": [1, 4], "difference": 0.25, "none": None}


def records(folder: Path | None, **facts: object) -> Records:
    return Records(folder).of(**({"cpu": "one", "torch": "2.13"} | facts))


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_start_of_the_same_facts_recalls_what_was_kept(tmp_path: Path) -> None:
    records(tmp_path / "new").keep("audit", OUTCOME)
    assert records(tmp_path / "new").recall("audit") == OUTCOME
    assert records(tmp_path / "new").recall("attention") is None
    assert only_file(tmp_path / "new").name.startswith("audit-")


@pytest.mark.parametrize("facts", [{"cpu": "another"}, {"torch": "2.14"}, {"threads": 2}])
def test_a_start_of_other_facts_recalls_nothing_and_keeps_its_own(
    tmp_path: Path, facts: dict[str, object]
) -> None:
    records(tmp_path).keep("audit", OUTCOME)
    assert records(tmp_path, **facts).recall("audit") is None
    records(tmp_path, **facts).keep("audit", "its own")
    assert records(tmp_path, **facts).recall("audit") == "its own"
    assert records(tmp_path).recall("audit") == OUTCOME


def moved_from_another_machine(path: Path) -> None:
    records(path.parent, cpu="another").keep("audit", OUTCOME)
    (other,) = set(path.parent.iterdir()) - {path}
    other.replace(path)


def edited(path: Path) -> None:
    record = json.loads(path.read_text())
    record["outcome"]["kernel"] = "math"
    path.write_text(json.dumps(record))


SPOILT: dict[str, Callable[[Path], object]] = {
    "half written": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "not text": lambda path: path.write_bytes(b"\xff" * 100),
    "not a record": lambda path: path.write_text("[1, 2]"),
    "without a digest": lambda path: path.write_text('{"outcome": 1, "facts": {}}'),
    "nested without end": lambda path: path.write_text("[" * 100_000),
    "edited": edited,
    "of another machine": moved_from_another_machine,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_is_not_whole_or_of_another_start_is_not_believed_and_written_anew(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    records(tmp_path).keep("audit", OUTCOME)
    spoil(only_file(tmp_path))
    assert records(tmp_path).recall("audit") is None
    records(tmp_path).keep("audit", OUTCOME)
    assert records(tmp_path).recall("audit") == OUTCOME
    only_file(tmp_path)  # nothing is left beside it


def test_a_folder_that_cannot_be_written_is_told_once_and_keeps_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    start = records(tmp_path / "file")
    start.keep("attention", OUTCOME)
    start.of(kernel="sdpa").keep("audit", OUTCOME)
    assert start.recall("attention") is None
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"cannot be kept in {tmp_path / 'file'}" in told
    assert "make the folder writable" in told


def test_those_that_were_of_use_last_are_kept(tmp_path: Path) -> None:
    def at(threads: int) -> Records:
        return records(tmp_path, threads=threads)

    for threads in range(MOST_KEPT):
        at(threads).keep("audit", threads)
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (threads, threads))
    assert at(0).recall("audit") == 0
    at(MOST_KEPT).keep("audit", MOST_KEPT)
    assert len(list(tmp_path.iterdir())) == MOST_KEPT
    assert at(0).recall("audit") == 0
    at(0).keep("attention", 0)
    assert len(list(tmp_path.iterdir())) == MOST_KEPT + 1


def test_without_a_folder_nothing_is_kept_and_nothing_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    records(None).keep("audit", OUTCOME)
    assert records(None).recall("audit") is None
    assert capsys.readouterr() == ("", "")
