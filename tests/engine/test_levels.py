"""Which level of CPU the kernels are compiled for."""

from __future__ import annotations

import pytest
from outrider_server.core.errors import StartupError
from outrider_server.engine.kernels import levels
from outrider_server.engine.kernels.levels import LEVELS, VARIABLE, chosen_level, machine_levels

BY_NAME = {level.name: level for level in LEVELS}


def names(machine: str, flags: frozenset[str]) -> list[str]:
    return [level.name for level in machine_levels(machine, flags)]


def test_a_cpu_has_its_level_and_all_below() -> None:
    assert names("x86_64", BY_NAME["amx"].flags) == ["amx", "avx512_bf16", "avx512", "avx2"]
    assert names("x86_64", BY_NAME["avx512"].flags) == ["avx512", "avx2"]
    assert names("x86_64", BY_NAME["avx2"].flags | {"avx512f"}) == ["avx2"], "a part is not enough"
    assert names("aarch64", frozenset({"asimd"})) == ["neon"]
    assert names("riscv64", BY_NAME["amx"].flags) == []


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with AVX-512 and no more."""
    monkeypatch.setattr(levels, "cpu_flags", lambda: BY_NAME["avx512"].flags)
    monkeypatch.setattr(levels.platform, "machine", lambda: "x86_64")


def test_the_best_is_taken_unless_another_is_named(avx512: None) -> None:
    assert chosen_level({}) is BY_NAME["avx512"]
    assert chosen_level({VARIABLE: ""}) is BY_NAME["avx512"]
    assert chosen_level({VARIABLE: "avx2"}) is BY_NAME["avx2"]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("amx", "OUTRIDER_ISA is amx, which this CPU has not; it has avx512, avx2"),
        (
            "sse",
            "OUTRIDER_ISA is sse, and must be one of amx, avx512_bf16, avx512, avx2, neon",
        ),
    ],
)
def test_a_level_that_cannot_be_is_refused(wanted: str, sentence: str, avx512: None) -> None:
    with pytest.raises(StartupError) as refused:
        chosen_level({VARIABLE: wanted})
    assert str(refused.value) == sentence


def test_a_cpu_of_no_level_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "cpu_flags", frozenset)
    assert chosen_level({}) is None
    with pytest.raises(StartupError, match="it has none of them"):
        chosen_level({VARIABLE: "avx2"})
