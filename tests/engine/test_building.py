"""Where the kernels' library is put and found. Nothing is compiled: a count takes the compiler's place."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from outrider_server.commands.kernels import kernels
from outrider_server.core.errors import StartupError
from outrider_server.engine import cpp_compiler
from outrider_server.engine.kernels import building, levels
from outrider_server.engine.kernels.levels import LEVELS, Level

COMPILER = "/usr/bin/g++"
BEST, LESS = LEVELS[:2]


class Builds:
    """The levels that were compiled, and the two folders in which libraries are looked for."""

    def __init__(self, folder: Path) -> None:
        self.levels: list[str] = []
        self.installed, self.cached = folder / "installed", folder / "cached"

    def compile(self, compiler: str, level: Level, sources: list[Path], library: Path) -> None:
        assert all(source.is_file() for source in sources)
        self.levels.append(level.name)
        library.write_bytes(b"compiled")


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builds:
    found = Builds(tmp_path)
    monkeypatch.setattr(building, "compile_library", found.compile)
    monkeypatch.setattr(building, "installed_folder", lambda: found.installed)
    monkeypatch.setattr(building, "cache_folder", lambda: found.cached)
    monkeypatch.setattr(levels.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(levels, "cpu_flags", lambda: BEST.flags)
    monkeypatch.setattr(cpp_compiler.shutil, "which", lambda _: COMPILER)
    monkeypatch.delenv(levels.VARIABLE, raising=False)
    return found


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A file in a folder's place: nothing can be written there, whoever asks."""
    folder.touch()
    yield
    folder.unlink()


def started(level: Level = BEST) -> Path:
    """What a start at a level loads."""
    with building.built_library(COMPILER, level) as library:
        assert library.is_file()
        return library


def test_a_start_compiles_nothing_after_the_command(builds: Builds) -> None:
    assert not building.is_built(COMPILER, BEST)
    kernels()
    assert building.is_built(COMPILER, BEST)
    assert started().parent == builds.installed
    kernels()
    assert builds.levels == [BEST.name]
    assert not builds.cached.exists()


def test_without_the_command_a_first_start_compiles_into_the_cache_folder(builds: Builds) -> None:
    assert started() == started()
    assert started().parent == builds.cached
    assert building.is_built(COMPILER, BEST)
    assert builds.levels == [BEST.name]
    assert not builds.installed.exists()


def test_a_disk_that_is_nearly_full_is_left_alone(
    builds: Builds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The compiler would fail in the middle, and its words would be about a file that nobody asked for."""
    monkeypatch.setattr(building.shutil, "disk_usage", lambda _: SimpleNamespace(free=9 << 20))
    library = started()
    assert library.parent not in (builds.cached, builds.installed)
    assert not library.exists(), "it was for this process alone"
    assert capsys.readouterr().err == (
        f"outrider: every start compiles the kernels anew: {builds.cached} cannot be written "
        "(less than 16 MiB are free); set XDG_CACHE_HOME\n"
    )


def test_what_a_killed_start_was_compiling_is_cleared_away(builds: Builds) -> None:
    left = builds.cached / f"{building.SCRATCH}killed"
    left.mkdir(parents=True)
    (left / "slots.o").touch()
    assert [started()] == list(builds.cached.iterdir())


def test_an_installation_that_cannot_be_written_leaves_the_cache_folder(builds: Builds) -> None:
    with unwritable(builds.installed):
        kernels()
        assert started().parent == builds.cached
    assert builds.levels == [BEST.name]


def test_an_installation_is_for_all_its_users_whatever_one_has_in_a_cache(builds: Builds) -> None:
    started()
    kernels()
    assert started().parent == builds.installed


def test_another_level_or_compiler_or_source_is_another_library(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels()
    assert not building.is_built(COMPILER, LESS)
    assert not building.is_built("/opt/bin/g++", BEST)
    assert started(LESS).name.startswith(f"kernels-{LESS.name}-")
    monkeypatch.setattr(building, "HEADERS", building.HEADERS[1:])
    assert not building.is_built(COMPILER, BEST)


def test_an_image_has_every_level_of_its_type_of_machine(
    builds: Builds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built on a CPU that has none of them."""
    monkeypatch.setattr(levels, "cpu_flags", frozenset)
    kernels(all_levels=True)
    alike = [level.name for level in LEVELS if level.machine == "x86_64"]
    assert builds.levels == alike
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == alike
    assert all(Path(line.partition(": ")[2]).is_file() for line in lines)


def test_the_command_takes_the_level_that_is_named(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(levels.VARIABLE, LESS.name)
    kernels()
    assert builds.levels == [LESS.name]


def test_what_cannot_be_compiled_is_told_in_a_sentence(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise subprocess.CalledProcessError(
            1, [COMPILER], stderr=b"rows.cpp: fatal error: too much\n"
        )

    monkeypatch.setattr(building, "compile_library", failing)
    with pytest.raises(
        StartupError, match=r"could not be built: /usr/bin/g\+\+: rows.cpp: fatal error: too much$"
    ):
        kernels()
    assert list(builds.installed.iterdir()) == []
    monkeypatch.setattr(cpp_compiler.shutil, "which", lambda _: None)
    with pytest.raises(StartupError, match=r"install g\+\+"):
        kernels()
    monkeypatch.setattr(levels, "cpu_flags", frozenset)
    with pytest.raises(StartupError, match="no level for this CPU"):
        kernels()


def test_every_source_is_in_the_librarys_name_and_none_needs_torch() -> None:
    """A header that is not in the list could change without a new name."""
    there = {path.name for path in building.FOLDER.iterdir() if path.suffix in (".cpp", ".h")}
    assert there == {*building.SOURCES, *building.HEADERS}
    for name in sorted(there):
        assert "torch/" not in (building.FOLDER / name).read_text()
