"""The launcher's variables: which rank a process is, and what does not fit the option."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from outrider_server.core.errors import ModelRefused, StartupError
from outrider_server.engine.ranks.ranks import Membership
from outrider_server.launching import find_membership, gather

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_without_a_launcher_a_process_has_no_place() -> None:
    assert find_membership(1, {}) is None
    assert find_membership(2, {"LOCAL_RANK": "0"}) is None


def test_a_launchers_variables_say_the_place() -> None:
    assert find_membership(4, TORCHRUN) == Membership(3, 1, 4, 2)
    assert find_membership(2, {"RANK": "1", "WORLD_SIZE": "2"}) == Membership(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("wanted", "changes", "reason"),
    [
        (1, {}, "started 4 ranks and --tensor-parallel says 1"),
        (2, {}, "started 4 ranks and --tensor-parallel says 2"),
        (4, {"RANK": "first"}, "are no numbers"),
        (4, {"RANK": "4"}, "name rank 4 of 4"),
        (4, {"LOCAL_RANK": "2"}, "name rank 3 of 4"),
    ],
)
def test_variables_that_do_not_fit_are_refused(
    wanted: int, changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(StartupError, match=reason):
        find_membership(wanted, TORCHRUN | changes)


def test_more_ranks_than_cuda_devices_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        StartupError, match="2 ranks need a CUDA device each and this machine has 1"
    ):
        gather(tmp_path, 2, "cuda")


def test_a_folder_that_cannot_be_shared_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which gathering on a CPU sets
    with pytest.raises(ModelRefused, match=r"has no config\.json"):
        gather(tmp_path, 2, "cpu")
