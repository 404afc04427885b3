"""A level that OUTRIDER_ISA pins holds for peers too."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from outrider_bench.cpu_level import LEVEL_FEATURES, PinnedLevel, pinned_level
from outrider_bench.llama_build import BINARY, check_features, features, pinned_binary
from outrider_server.core.errors import StartupError
from outrider_server.engine.kernels.levels import machine_levels

HERE = [level.name for level in machine_levels() if level.machine == "x86_64"]
LOG = (
    "main: starting\nsystem_info: n_threads = 2 / 2 | CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 "
    "| AVX512 = 1 | AVX512_VNNI = 0 | REPACK = 1 | \nloading\n"
)


def level(name: str) -> PinnedLevel:
    """A level of this machine."""
    found = pinned_level({"OUTRIDER_ISA": name})
    assert found is not None
    return found


def build(folder: Path, *variants: str) -> Path:
    """A build of llama.cpp by the names of its files."""
    folder.mkdir()
    for name in (BINARY, "libggml.so.0", *(f"libggml-cpu-{each}.so" for each in variants)):
        (folder / name).write_text(name)
    return folder / BINARY


def test_nothing_is_pinned_where_nothing_is_named() -> None:
    assert pinned_level({}) is None


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(StartupError, match="OUTRIDER_ISA is sse, and must be one of"):
        pinned_level({"OUTRIDER_ISA": "sse"})


@pytest.mark.skipif("avx2" not in HERE, reason="the CPU has no AVX2")
def test_every_level_of_this_machine_limits_the_peers() -> None:
    levels = [level(name) for name in HERE]
    assert [each.name for each in levels] == HERE
    for better, lesser in itertools.pairwise(levels):
        assert lesser.llama_features < better.llama_features <= LEVEL_FEATURES
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    assert limits.items() <= levels[-1].variables.items()
    assert levels[-1].variables["TORCHINDUCTOR_FX_GRAPH_CACHE"] == "0"


@pytest.mark.skipif("avx2" not in HERE, reason="the CPU has no AVX2")
def test_a_server_is_pinned_beside_the_one_variant(tmp_path: Path) -> None:
    binary = build(tmp_path / "build", "haswell", "skylakex")
    pinned = pinned_binary(binary, level("avx2"), tmp_path)
    assert pinned.read_text() == BINARY
    assert not pinned.is_symlink()
    names = {path.name for path in pinned.parent.iterdir()}
    assert names == {BINARY, "libggml.so.0", "libggml-cpu-haswell.so"}


@pytest.mark.skipif("avx2" not in HERE, reason="the CPU has no AVX2")
def test_a_build_without_the_variant_is_refused_and_one_without_any_is_taken(
    tmp_path: Path,
) -> None:
    lacking = build(tmp_path / "lacking", "skylakex")
    with pytest.raises(
        StartupError, match=r"has no libggml-cpu-haswell.so, which avx2 needs: build"
    ):
        pinned_binary(lacking, level("avx2"), tmp_path)
    single = build(tmp_path / "single")
    assert pinned_binary(single, level("avx2"), tmp_path) == single


@pytest.mark.skipif("avx512" not in HERE, reason="the CPU has no AVX-512")
def test_what_a_server_says_of_itself_is_compared_with_the_level() -> None:
    used = features(LOG)
    assert used == {"AVX2", "AVX512"}
    check_features(used, level("avx512"))
    with pytest.raises(
        StartupError, match=r"is avx2, and llama.cpp uses AVX2, AVX512 instead of AVX2:"
    ):
        check_features(used, level("avx2"))


def test_a_server_that_says_nothing_is_refused() -> None:
    with pytest.raises(StartupError, match="does not say which instructions"):
        features("listening\n")
