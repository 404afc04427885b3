"""The check before loading: one sentence instead of a death half-way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from outrider_server.core.errors import ModelRefused, StartupError
from outrider_server.core.progress import Report, Stage
from outrider_server.engine import kernels
from outrider_server.engine.options import EngineOptions
from outrider_server.engine.records import Records
from outrider_server.host import building as building
from outrider_server.host.building import engine_builder
from outrider_server.models import TARGET_FOLDER
from outrider_server.planning import counting, startup
from outrider_server.planning.available import available_bytes
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.memory import plan_memory
from outrider_server.planning.shape import engine_shape
from outrider_server.planning.startup import check_memory

from .configs import MISTRAL_7B, options, write_config

REQUEST = options(compile="off")
GIB = 1 << 30


def needed() -> int:
    sizes = count_model(read_config(TARGET_FOLDER))
    return plan_memory(sizes, engine_shape(sizes, REQUEST)).total_bytes


def test_what_exactly_fits_starts_and_a_byte_less_does_not() -> None:
    check_memory(replace(REQUEST, folder=TARGET_FOLDER), available=needed())
    with pytest.raises(StartupError):
        check_memory(replace(REQUEST, folder=TARGET_FOLDER), available=needed() - 1)


def test_the_refusal_names_what_is_planned_what_is_there_and_what_to_reduce(
    tmp_path: Path,
) -> None:
    folder = write_config(tmp_path / "large", MISTRAL_7B)
    with pytest.raises(StartupError) as refused:
        check_memory(options(compile="off", folder=folder), available=24 * GIB)
    message = str(refused.value)
    assert message.startswith("large needs 49.80 GiB (weights 13.49 GiB, cache 36.14 GiB, ")
    assert "cpu has 24.00 GiB available; it fits with --slots 1" in message
    assert "\n" not in message


def test_where_one_slot_is_too_many_a_shorter_context_or_a_smaller_model_is_named(
    tmp_path: Path,
) -> None:
    folder = write_config(tmp_path, MISTRAL_7B)
    one = options(compile="off", slots=1)
    with pytest.raises(StartupError, match=r"fits with --max-context-tokens \d+$"):
        check_memory(replace(one, folder=folder), available=14 * GIB)
    with pytest.raises(StartupError, match="use a smaller model or dtype"):
        check_memory(replace(one, folder=folder), available=13 * GIB)


def test_the_advice_is_right(tmp_path: Path) -> None:
    folder = write_config(tmp_path, MISTRAL_7B)
    with pytest.raises(StartupError) as refused:
        check_memory(options(compile="off", folder=folder), available=30 * GIB)
    slots = int(str(refused.value).rpartition(" ")[2])
    check_memory(options(compile="off", slots=slots, folder=folder), available=30 * GIB)
    with pytest.raises(StartupError):
        check_memory(options(compile="off", slots=slots + 1, folder=folder), available=30 * GIB)


def test_quantized_weights_need_less(tmp_path: Path) -> None:
    folder = write_config(tmp_path, MISTRAL_7B)
    request = options(compile="off", slots=1, max_context_tokens=1024)
    with pytest.raises(StartupError):
        check_memory(replace(request, folder=folder), available=9 * GIB)
    quantized = options(compile="off", slots=1, max_context_tokens=1024, quantization="int8")
    check_memory(replace(quantized, folder=folder), available=9 * GIB)


def test_a_rank_needs_its_share_of_weights_and_cache(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "large", MISTRAL_7B)
    request = options(compile="off")
    check_memory(replace(request, folder=folder), available=26 * GIB, ranks=2)
    with pytest.raises(StartupError) as refused:
        check_memory(replace(request, folder=folder), available=24 * GIB, ranks=2)
    message = str(refused.value)
    assert message.startswith(
        "each rank of large needs 24.98 GiB (weights 6.74 GiB, cache 18.07 GiB, "
    )
    assert "and there are 24.00 GiB available; use more devices" in message


def test_ranks_of_one_machine_share_its_memory(tmp_path: Path) -> None:
    folder = write_config(tmp_path, MISTRAL_7B)
    request = options(compile="off")
    check_memory(replace(request, folder=folder), available=52 * GIB, ranks=2, ranks_here=2)
    with pytest.raises(
        StartupError, match=r"49\.9\d GiB for the 2 ranks of this machine, and there"
    ):
        check_memory(replace(request, folder=folder), available=26 * GIB, ranks=2, ranks_here=2)


@pytest.mark.parametrize("content", [None, {}, {"model_type": "t5"}, {"model_type": "mamba"}])
def test_a_folder_that_cannot_be_planned_is_left_to_loading(
    content: dict[str, str] | None, tmp_path: Path
) -> None:
    if content is not None:
        write_config(tmp_path, content)
    check_memory(replace(REQUEST, folder=tmp_path), available=1)


def build(folder: Path) -> None:
    builder = engine_builder(
        EngineOptions(
            folder=folder,
            dtype="auto",
            device="cpu",
            slots=2,
            rows=2,
            width=8,
            prefill_width=64,
            max_context_tokens=0,
            compile="off",
            threads=1,
            park_bytes=0,
        )
    )
    builder()


def test_kernels_that_the_check_compiles_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take minutes on a busy machine, and nothing else says what one waits for."""
    monkeypatch.setattr(kernels, "is_built", lambda compiler, level: False)
    monkeypatch.setattr(kernels, "kernels_missing", lambda: "")
    reports: list[Report] = []
    packed = options(compile="auto", folder=TARGET_FOLDER)
    check_memory(packed, available=24 * GIB, tell=reports.append)
    assert reports == [Report(Stage.BUILDING)]
    monkeypatch.setattr(kernels, "is_built", lambda compiler, level: True)
    check_memory(packed, available=24 * GIB, tell=reports.append)
    check_memory(replace(packed, compile="off"), available=24 * GIB, tell=reports.append)
    assert len(reports) == 1


def test_an_engine_that_cannot_fit_is_refused_before_its_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object) -> None:
        pytest.fail("weights were read")

    folder = write_config(tmp_path / "huge", MISTRAL_7B)
    monkeypatch.setattr(startup, "available_bytes", lambda device: 4 * GIB)
    monkeypatch.setattr(building, "_load", unreachable)
    with pytest.raises(StartupError, match=r"huge needs .* 4\.00 GiB available"):
        build(folder)


def test_a_bad_folder_is_still_refused_for_its_own_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"has no config\.json"):
        build(tmp_path)


# What is available


def fake_machine(root: Path, meminfo: str = "", **groups: tuple[str, int, int]) -> Path:
    """A /proc and a /sys; groups are (memory.max, memory.current, inactive_file)."""
    (root / "proc" / "self").mkdir(parents=True)
    if meminfo:
        (root / "proc" / "meminfo").write_text(meminfo)
    folder = root / "sys" / "fs" / "cgroup"
    path = ""
    for name, (limit, used, files) in groups.items():
        path += f"/{name}"
        folder = folder / name
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {files}\n")
    (root / "proc" / "self" / "cgroup").write_text(f"0::{path or '/'}\n")
    return root


CPU = torch.device("cpu")
MEMINFO = "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  5000 kB\n"


def test_the_system_says_what_is_available(tmp_path: Path) -> None:
    assert available_bytes(CPU, fake_machine(tmp_path, MEMINFO)) == 5000 * 1024


def test_a_containers_limit_counts_where_it_is_smaller(tmp_path: Path) -> None:
    root = fake_machine(
        tmp_path, MEMINFO, outer=("3000000", 1_000_000, 200_000), inner=("max", 900_000, 0)
    )
    assert available_bytes(CPU, root) == 2_200_000


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path: Path) -> None:
    assert available_bytes(CPU, fake_machine(tmp_path, MEMINFO, only=("10", 20, 0))) == 0


def test_where_nobody_says_nothing_is_refused(tmp_path: Path) -> None:
    assert available_bytes(CPU, tmp_path) is None
    assert available_bytes(torch.device("meta"), tmp_path) is None


def test_this_machine_says() -> None:
    found = available_bytes(CPU)
    assert found is None or found > 0


def test_a_second_start_counts_nothing_and_says_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_config(tmp_path / "large", MISTRAL_7B)
    records, request = Records(tmp_path / "records"), options(compile="off", folder=folder)
    with pytest.raises(StartupError) as first:
        check_memory(request, available=24 * GIB, records=records)
    monkeypatch.setattr(counting, "count_model", lambda file: pytest.fail("it was counted"))
    with pytest.raises(StartupError) as second:
        check_memory(request, available=24 * GIB, records=records)
    assert str(second.value) == str(first.value)
    check_memory(request, available=64 * GIB, records=records)


@pytest.mark.parametrize("kept", [None, [], {}, {"tensors": [1]}, {"name": "large"}])
def test_sizes_that_are_none_are_counted_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: object
) -> None:
    folder = write_config(tmp_path / "large", MISTRAL_7B)
    monkeypatch.setattr(Records, "recall", lambda self, kind: kept)
    with pytest.raises(StartupError, match=r"large needs 49\.80 GiB"):
        check_memory(options(compile="off", folder=folder), available=24 * GIB)
