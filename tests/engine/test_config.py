"""Configurations: what cannot work is refused in one sentence before anything is loaded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from outrider_server.config import DraftConfig, SessionConfig, TargetConfig, default_ledger
from outrider_server.core.errors import StartupError
from outrider_server.engine.options import EngineOptions

FOLDER = Path("model")
RANGES = {
    "dtype": (["auto", "float32", "bfloat16", "float16"], ["int8", "", "float64"]),
    "quantization": (["none", "int8", "nf4", "fp4"], ["", "int4", "gptq"]),
    "compile": (["auto", "on", "off"], ["yes", ""]),
    "slots": ([1, 8, 4096], [0, -1, 4097]),
    "rows": ([0, 1, 8], [-1, 9]),
    "width": ([1, 2, 8, 64], [0, -8, 65]),
    "prefill_width": ([8, 64, 4096], [0, 7, 12, 4104, -8]),
    "max_context_tokens": ([0, 1, 10**6], [-1]),
    "threads": ([0, 1, 64], [-1]),
    "tensor_parallel": ([1, 2, 64], [0, -1, 65]),
}


@pytest.mark.parametrize("name", RANGES)
def test_an_engine_checks_every_shape(name: str) -> None:
    inside, outside = RANGES[name]
    for value in inside:
        assert getattr(EngineOptions(folder=FOLDER, **{name: value}), name) == value
    for value in outside:
        with pytest.raises(StartupError, match=name.split("_")[0]) as refused:
            EngineOptions(folder=FOLDER, **{name: value})
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "buckets"),
    [(1, (1,)), (2, (1, 2)), (4, (1, 4)), (5, (1, 4, 5)), (8, (1, 4, 8)), (16, (1, 4, 16))],
)
def test_row_buckets_are_powers_of_four_and_the_most(rows: int, buckets: tuple[int, ...]) -> None:
    assert EngineOptions(folder=FOLDER, slots=16, rows=rows).row_buckets == buckets
    assert EngineOptions(folder=FOLDER, slots=rows).row_buckets == buckets, "0 takes the slots"


def test_threads_default_to_leaving_one_core() -> None:
    assert EngineOptions(folder=FOLDER).thread_count >= 1
    assert EngineOptions(folder=FOLDER, threads=3).thread_count == 3
    assert EngineOptions(folder=FOLDER, threads=3, tensor_parallel=64).thread_count == 3
    assert EngineOptions(folder=FOLDER, tensor_parallel=64).thread_count <= max(
        1, EngineOptions(folder=FOLDER).thread_count // 64
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cuda:1"}, "each on a device of its own, not on cuda:1"),
        ({"device": "mps"}, "several ranks run on cpu or cuda"),
        ({"quantization": "nf4"}, "quantized weights cannot be shared by several ranks"),
    ],
)
def test_ranks_take_a_kind_of_device_and_plain_weights(
    changes: dict[str, str], reason: str
) -> None:
    EngineOptions(folder=FOLDER, **changes)
    EngineOptions(folder=FOLDER, tensor_parallel=2, device="cuda")
    with pytest.raises(StartupError, match=reason):
        EngineOptions(folder=FOLDER, tensor_parallel=2, **changes)


@pytest.mark.parametrize("width", [1, 2, 6, 12])
def test_a_targets_width_is_a_multiple_of_eight_and_a_drafts_need_not_be(width: int) -> None:
    engine = EngineOptions(folder=FOLDER, width=width)
    DraftConfig(engine=engine)
    with pytest.raises(StartupError, match="multiple of 8"):
        TargetConfig(engine=engine)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("window", [0, 4, 63], [-1, 64]),
        ("lead", [1, 12, 64], [0, 65]),
        ("target_timeout_ms", [1, 10**6], [0, -1]),
    ],
)
def test_a_session_service_checks_its_pace(
    name: str, inside: list[int], outside: list[int]
) -> None:
    for value in inside:
        assert getattr(SessionConfig(ledger=FOLDER, **{name: value}), name) == value
    for value in outside:
        with pytest.raises(StartupError):
            SessionConfig(ledger=FOLDER, **{name: value})


def test_a_number_that_is_none_is_no_width() -> None:
    with pytest.raises(StartupError):
        EngineOptions(folder=FOLDER, width=math.nan)


def test_the_ledger_follows_the_xdg_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_ledger() == tmp_path / "outrider" / "ledger.db"
