"""Compiled steps of the library's model: whose graph runs, and what happens where a compiler fails.

Another attention than the engine's own is asked for, as steps would be recorded on this machine otherwise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from models_for_tests import (
    VOCABULARY_SIZE,
    loaded,
    needs_kernels,
    packable_llama,
    packed_runner,
    tiny_limits,
    tiny_llama,
    tiny_runner,
)
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine import compiling
from outrider_server.engine.attention.attention import SDPA
from outrider_server.engine.compiling import GuardedCompiler
from outrider_server.engine.cpp_compiler import cpp_compiler
from outrider_server.engine.drawing.noise import gumbel_noise
from outrider_server.engine.kernels.building import SOURCES, built_library
from outrider_server.engine.kernels.levels import chosen_level, machine_levels
from outrider_server.engine.layout import Row
from outrider_server.engine.step import StepRunner

from .subjects import ALIGNED, GREEDY, library_logits

TOKENS = tuple((11 * index + 2) % VOCABULARY_SIZE for index in range(20))
DEEP = 3
"""Layers of the second model; a graph of the first one's two would give other logits, silently."""


class Doubler:
    """A function to compile, as a bound method; counts its eager calls."""

    def __init__(self) -> None:
        self.calls = 0

    def double(self, numbers: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 2 * numbers


class Multiplier:
    """A function of an engine: what it gives depends on whose it is."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def multiply(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.factor * numbers


def failing(*_: object, **__: object) -> Callable[..., torch.Tensor]:
    """Stands for `torch.compile`: what it returns raises what the compiler would, on its first call."""

    def run(*_: object) -> torch.Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no")

    return run


def test_off_and_too_small_say_why_they_do_not_compile() -> None:
    assert not ALIGNED.runner.compiled
    assert ALIGNED.runner.compile_note == "compilation is switched off"
    auto = StepRunner(loaded(tiny_llama()), tiny_limits(), "auto", SDPA)
    assert not auto.compiled
    assert auto.compile_note.startswith(("the model is too small", "no C++ compiler"))


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    compiler = GuardedCompiler(loaded(tiny_llama()), "on")
    doubler = Doubler()
    assert compiler.note == "no C++ compiler was found; install g++"
    assert compiler.compile(doubler.double) == doubler.double


def test_what_is_slower_without_a_compiler_is_said_once_a_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    compiling._tell_what_is_slower.cache_clear()
    for mode in ("off", "on", "auto"):
        GuardedCompiler(loaded(tiny_llama()), mode)
    assert capsys.readouterr().err == (
        "outrider: steps run eagerly, on torch's kernels, which is slower:"
        " no C++ compiler was found; install g++\n"
    )


def test_one_failure_turns_every_function_eager_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", failing)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    compiler = GuardedCompiler(loaded(tiny_llama()), "on")
    first, second = Doubler(), Doubler()
    runs = [compiler.compile(doubler.double) for doubler in (first, second)]
    assert not compiler.note
    for _ in range(2):
        for run in runs:
            assert torch.equal(run(torch.ones(4)), 2 * torch.ones(4))
    assert (first.calls, second.calls) == (2, 2)
    assert "does not compile (TorchDynamoException)" in compiler.note
    assert capsys.readouterr().err.count("steps run eagerly") == 1


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed")
def test_many_engines_of_a_process_do_not_share_the_room_for_graphs() -> None:
    """The compiler keeps a few graphs for each code object; here two, which one engine fills."""
    sizes = (3, 5)
    with torch._dynamo.config.patch(recompile_limit=len(sizes)):
        for factor in (2, 7):
            compiler = GuardedCompiler(loaded(tiny_llama()), "on")
            compiled = compiler.compile(Multiplier(factor).multiply)
            for size in sizes:
                assert compiled(torch.ones(size)).tolist() == [factor] * size
            assert not compiler.note


def test_a_runner_whose_compiler_fails_gives_the_logits_of_eager_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", failing)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    runner = StepRunner(loaded(tiny_llama()), tiny_limits(), "on", SDPA)
    assert runner.compiled
    ALIGNED.check(runner.logits([Row(0, 0, TOKENS[:8])], 1)[0], library_logits(TOKENS[:8]))
    assert not runner.compiled


@needs_kernels
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_recorded_steps_leave_nothing_to_a_compiler(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", failing)
    runner = StepRunner(loaded(packable_llama()), tiny_limits(), mode)
    runner.draws.write(0, Draw(SamplingParams(), 1, 0))
    assert runner.decide([Row(0, 0, TOKENS[:8])], 1)[0].tokens
    assert runner.compiled


FAILING_MACHINE = """
import json, sys
import torch
from models_for_tests import loaded, packable_llama, tiny_limits
from outrider_server.engine.engine import Engine
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.layout import Row

engine = Engine(loaded(packable_llama()), tiny_limits(row_buckets=(1,)), "on")
logits = engine.runner.logits([Row(0, 0, (1, 2, 3))], 1)[0]
print(json.dumps({
    "missing": kernels_missing(),
    "packed": engine.runner.layout.packed,
    "note": engine.describe().compile_note,
    "logits": logits.tolist(),
}))
"""


def fake_compiler(folder: Path, script: str) -> dict[str, str]:
    """An environment whose only C++ compiler is `script`, and whose caches are empty."""
    program = folder / "bin" / "g++"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    paths = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    return os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "CXX": "g++",
    }


def run_python(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )


def copying(library: Path) -> str:
    """The script of a compiler that has compiled everything before, and takes no time."""
    return f'while [ "$1" != -o ]; do shift; done; cp {library} "$2"'


PROGRAM = "from outrider_server.engine.kernels import kernels_missing; print(kernels_missing())"


@needs_kernels
def test_a_machine_whose_compiler_fails_is_served_eagerly_by_torchs_kernels(
    tmp_path: Path,
) -> None:
    environment = fake_compiler(tmp_path, "echo 'x.h:1: error: no room' >&2; exit 1")
    done = run_python(FAILING_MACHINE, environment)
    told = json.loads(done.stdout)
    assert not told["packed"]
    assert (
        told["note"]
        == told["missing"]
        == (
            f"the kernels could not be built ({tmp_path}/bin/g++: x.h:1: error: no room); "
            "mend that and start anew"
        )
    )
    told_once = (
        f"outrider: steps run eagerly, on torch's kernels, which is slower: {told['note']}\n"
    )
    assert done.stderr == told_once
    wanted = packed_runner(packable_llama()).logits([Row(0, 0, (1, 2, 3))], 1)[0]
    got = torch.tensor(told["logits"])
    assert (got - wanted).norm() < 0.05 * wanted.norm()


@needs_kernels
def test_the_kernels_are_compiled_once_a_machine(tmp_path: Path) -> None:
    """The compiler notes its calls; the second process must find what the first one left."""
    log = tmp_path / "calls"
    calls = []
    with built_library(cpp_compiler(), chosen_level()) as library:
        environment = fake_compiler(tmp_path, f"echo call >> {log}; {copying(library)}")
        for _ in range(2):
            assert run_python(PROGRAM, environment).stdout == "\n"
            calls.append(log.read_text().count("call"))
    assert calls == [len(SOURCES) + 1] * 2, "each source once, and the library made of them"


@needs_kernels
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        lambda content: content[:-1],
    ],
    ids=["empty", "cut short", "a flipped bit", "without its last byte"],
)
def test_kernels_that_are_damaged_are_compiled_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """To load them could end the process without a word."""
    with built_library(cpp_compiler(), chosen_level()) as library:
        environment = fake_compiler(tmp_path, copying(library))
        run_python(PROGRAM, environment)
        (kept,) = (tmp_path / "cache" / "outrider").glob("kernels-*.so")
        whole = kept.read_bytes()
        kept.write_bytes(damage(whole))
        assert run_python(PROGRAM, environment).stdout == "\n"
        assert kept.read_bytes() == whole


@needs_kernels
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "No such file or directory"),
        ('while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"', "file too short|invalid ELF"),
    ],
)
def test_a_compiler_that_makes_rubbish_is_told_of_and_its_work_is_not_kept(
    tmp_path: Path, script: str, reason: str
) -> None:
    said = run_python(PROGRAM, fake_compiler(tmp_path, script)).stdout
    assert re.fullmatch(
        rf"the kernels could not be built \(.*({reason}).*\); mend that and start anew\n", said
    )
    assert not list((tmp_path / "cache" / "outrider").glob("kernels-*.so"))


@needs_kernels
def test_kernels_that_cannot_be_kept_are_built_for_this_process_and_it_is_said_once(
    tmp_path: Path,
) -> None:
    """A file stands where the cache folder should."""
    scratch, file = tmp_path / "scratch", tmp_path / "file"
    scratch.mkdir()
    file.touch()
    variables = {"XDG_CACHE_HOME": str(file), "TMPDIR": str(scratch)}
    with built_library(cpp_compiler(), chosen_level()) as library:
        done = run_python(PROGRAM, fake_compiler(tmp_path, copying(library)) | variables)
    assert done.stdout == "\n"
    assert done.stderr == (
        "outrider: every start compiles the kernels anew:"
        f" {file}/outrider cannot be written (Not a directory); set XDG_CACHE_HOME\n"
    )
    assert not list(scratch.iterdir()), "nothing is left behind"


@needs_kernels
def test_a_compiler_that_does_not_know_the_instructions_is_not_trusted(tmp_path: Path) -> None:
    """It compiles for the machine's lowest level. The library would load, and return what the memory held."""
    program = (
        "from dataclasses import replace\n"
        "from outrider_server.engine import kernels\n"
        "more = replace(kernels.chosen_level(), name='more')\n"
        "kernels.chosen_level = lambda: more\n"
        "print(kernels.kernels_missing())"
    )
    with built_library(cpp_compiler(), machine_levels()[-1]) as library:
        done = run_python(program, fake_compiler(tmp_path, copying(library)))
    assert "does not know more" in done.stdout


def test_compiled_noise_equals_eager_noise() -> None:
    """Noise must be the same whichever way a service runs.

    Compiled logarithms may round the last bit otherwise; the 53 bits under them may not differ at all, so
    the bound is a few units in the last place of values below 40.
    """
    compiled = torch.compile(gumbel_noise, fullgraph=True, dynamic=False)
    seeds, positions = torch.tensor([3, -1]), torch.tensor([[0, 1, 99], [2**31, 5, 7]])
    try:
        got = compiled(seeds, positions, 33)
    except torch._dynamo.exc.TorchDynamoException:
        pytest.skip("no compiler on this machine")
    torch.testing.assert_close(got, gumbel_noise(seeds, positions, 33), rtol=1e-13, atol=1e-13)


def compiled_runner(seed: int, layers: int) -> StepRunner:
    model = tiny_llama(seed, num_hidden_layers=layers)
    runner = StepRunner(loaded(model), tiny_limits(row_buckets=(4,)), "on", SDPA)
    for slot in range(5):
        runner.draws.write(slot, GREEDY)
    return runner


@pytest.fixture(scope="module")
def compiled() -> Iterator[tuple[StepRunner, StepRunner]]:
    """Two runners of one process, each over a model of its own."""
    if not cpp_compiler():
        pytest.skip("no C++ compiler is installed")
    yield compiled_runner(0, layers=2), compiled_runner(1, layers=DEEP)
    torch._dynamo.reset()


def read(runner: StepRunner) -> torch.Tensor:
    """The tokens' logits through prefill and steps."""
    runner.prefill(Row(1, 0, TOKENS[:8]))
    parts = [Row(1, start, TOKENS[start : start + 4]) for start in range(8, 20, 4)]
    return torch.cat([runner.logits([part], 4)[0].clone() for part in parts])


def test_two_engines_of_a_process_run_their_own_graphs(
    compiled: tuple[StepRunner, StepRunner],
) -> None:
    """No guard tells the two apart, and their shapes are the same but for the number of layers."""
    eager = [
        read(tiny_runner(tiny_llama(seed, num_hidden_layers=layers)))
        for seed, layers in ((0, 2), (1, DEEP))
    ]
    for index in (0, 1, 0, 1):
        got = read(compiled[index])
        assert compiled[index].compiled, compiled[index].compile_note
        assert (got - eager[index]).norm() < 1e-4 * eager[index].norm()
        assert (got - eager[1 - index]).norm() > 0.5 * eager[index].norm()


def test_compiled_steps_give_ties_to_the_lowest_token_id(
    compiled: tuple[StepRunner, StepRunner],
) -> None:
    """Half of the rows of the last layer are one vector and half its opposite, so one half ties on top."""
    runner, rows = compiled[0], [Row(slot, 0, (slot, 5, 6)) for slot in range(4)]
    weight = runner.forward._model.lm_head.weight.data
    kept = weight.clone()
    weight[:] = 1
    weight[:17] = weight[33:] = -1
    for row, result in zip(rows, runner.decide(rows, 4), strict=True):
        (logits,) = runner.logits([row], 4)
        largest = [line.eq(line.max()).nonzero()[0].item() for line in logits]
        assert list(result.tokens) == largest
        assert set(largest) <= {0, 17}
    weight[:] = kept
