"""Which level of CPU the kernels are compiled for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from models_for_tests import save_folder
from outrider_server.core.errors import StartupError
from outrider_server.cpu import cpu_flags
from outrider_server.engine.kernels import levels
from outrider_server.engine.kernels.levels import (
    LEVELS,
    VARIABLE,
    chosen_level,
    machine_levels,
)
from outrider_server.engine.options import EngineOptions
from outrider_server.host.building import engine_builder

Machine = Callable[[str, frozenset[str]], None]
BY_NAME = {level.name: level for level in LEVELS}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this machine another one."""

    def become(name: str, flags: frozenset[str]) -> None:
        monkeypatch.setattr(levels.platform, "machine", lambda: name)
        monkeypatch.setattr(levels, "cpu_flags", lambda: flags)

    return become


@pytest.mark.parametrize(
    ("name", "flags", "had"),
    [
        ("x86_64", BY_NAME["amx"].flags, ["amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2"]),
        ("x86_64", BY_NAME["avx512_vnni"].flags, ["avx512_vnni", "avx512", "avx2"]),
        ("x86_64", BY_NAME["avx512_bf16"].flags - {"avx512_vnni"}, ["avx512", "avx2"]),
        ("x86_64", BY_NAME["avx512"].flags, ["avx512", "avx2"]),
        ("x86_64", BY_NAME["avx2"].flags | {"avx512f"}, ["avx2"]),
        ("x86_64", BY_NAME["avx2"].flags - {"fma"}, []),
        ("aarch64", frozenset({"asimd"}), ["neon"]),
        ("riscv64", BY_NAME["amx"].flags, []),
    ],
)
def test_a_cpu_has_its_level_and_all_below(
    machine: Machine, name: str, flags: frozenset[str], had: list[str]
) -> None:
    """A part of a level's instructions is not enough."""
    machine(name, flags)
    assert [level.name for level in machine_levels()] == had


def test_the_best_is_taken_unless_another_is_named(machine: Machine) -> None:
    machine("x86_64", BY_NAME["avx512"].flags)
    assert chosen_level({}) is BY_NAME["avx512"]
    assert chosen_level({VARIABLE: ""}) is BY_NAME["avx512"]
    assert chosen_level({VARIABLE: "avx2"}) is BY_NAME["avx2"]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("amx", "OUTRIDER_ISA is amx, which this CPU has not; it has avx512, avx2"),
        (
            "sse",
            "OUTRIDER_ISA is sse, and must be one of amx, avx512_bf16, avx512_vnni, avx512, avx2, neon",
        ),
    ],
)
def test_a_level_that_cannot_be_is_refused(wanted: str, sentence: str, machine: Machine) -> None:
    machine("x86_64", BY_NAME["avx512"].flags)
    with pytest.raises(StartupError) as refused:
        chosen_level({VARIABLE: wanted})
    assert str(refused.value) == sentence


def test_a_cpu_of_no_level_has_none(machine: Machine) -> None:
    machine("x86_64", frozenset())
    assert chosen_level({}) is None
    with pytest.raises(StartupError, match="it has none of them"):
        chosen_level({VARIABLE: "avx2"})


def test_a_service_refuses_a_level_before_it_reads_a_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose weights are not for the kernels."""
    folder = save_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    monkeypatch.setenv(VARIABLE, "sse")
    options = EngineOptions(
        folder=folder,
        dtype="float32",
        device="cpu",
        slots=1,
        rows=1,
        width=8,
        prefill_width=16,
        max_context_tokens=0,
        compile="off",
        threads=1,
        park_bytes=0,
    )
    with pytest.raises(StartupError, match="OUTRIDER_ISA is sse"):
        engine_builder(options)()


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 fma\nprocessor : 1\nflags\t\t: fpu\n", "fpu avx2 fma"),
        ("processor : 0\nFeatures\t: fp asimd\n", "fp asimd"),
        ("processor : 0\n", ""),
    ],
)
def test_what_linux_says_of_the_first_core_is_read(
    text: str, flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert cpu_flags() == set(flags.split())
