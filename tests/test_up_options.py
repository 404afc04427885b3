"""Engine options on the command line: all of them, what `up` tells target and draft, and back again."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.commands import cli, up, wiring
from outrider_server.commands.engine_options import engine_arguments
from outrider_server.config import DRAFT_ENGINE, TARGET_ENGINE
from outrider_server.core.errors import StartupError
from outrider_server.engine import options
from outrider_server.engine.options import EngineOptions
from typer.testing import CliRunner


def run(*arguments: str) -> None:
    outcome = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output


def told(
    monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[EngineOptions, EngineOptions | None]:
    """The options that target and draft get from `up` with the bundled pair; None for a draft that is not
    started."""
    seen: list[tuple[EngineOptions, EngineOptions | None]] = []

    async def run_up(
        ledger: str,
        session: list[str],
        target: EngineOptions,
        draft: EngineOptions | None,
        note: str,
    ) -> int:
        seen.append((target, draft))
        return 0

    monkeypatch.setattr(up, "run_up", run_up)
    run("up", "--bundled", *arguments)
    return seen[0]


def test_without_more_options_both_engines_have_their_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert told(monkeypatch) == (TARGET_ENGINE, DRAFT_ENGINE)


def test_the_draft_takes_dtype_and_device_of_the_target_but_not_its_quantization(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, draft = told(
        monkeypatch, "--dtype=bfloat16", "--device=cuda:0", "--quantization", "nf4"
    )
    precision = {"dtype": "bfloat16", "device": "cuda:0"}
    assert target == replace(TARGET_ENGINE, **precision, quantization="nf4")
    assert draft == replace(DRAFT_ENGINE, **precision)


def test_the_draft_has_options_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = told(
        monkeypatch,
        "--draft-dtype=float32",
        "--draft-device=cpu",
        "--draft-quantization=int8",
        "--draft-attention=sdpa",
        "--device=cuda:1",
        "--draft=elsewhere",
    )
    assert target == replace(TARGET_ENGINE, device="cuda:1")
    assert draft == replace(
        DRAFT_ENGINE,
        folder=Path("elsewhere"),
        dtype="float32",
        quantization="int8",
        attention="sdpa",
    )
    assert told(monkeypatch, "--draft=none")[1] is None


def test_slots_context_and_parked_memory_are_for_both_the_rest_is_the_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, draft = told(
        monkeypatch,
        "--slots=3",
        "--rows=2",
        "--compile=off",
        "--max-context-tokens=512",
        "--park-memory=3MiB",
        "--queue=9",
        "--threads=2",
        "--reproducible",
    )
    both: dict[str, Any] = {
        "slots": 3,
        "rows": 2,
        "compile": "off",
        "max_context_tokens": 512,
        "park_bytes": 3 << 20,
    }
    assert target == replace(TARGET_ENGINE, **both, queue=9, threads=2, reproducible=True)
    assert draft == replace(DRAFT_ENGINE, **both)


def test_ranks_share_the_target_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = told(monkeypatch, "--tensor-parallel=2")
    assert target.tensor_parallel == 2
    assert draft == DRAFT_ENGINE


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["up", "--rows=9"], "rows must be 1 to the 8 slots"),
        (["up", "--park-memory=much"], "park memory 'much' is no size.*, or 0 for none"),
        (["up", f"--park-memory={'9' * 320}GiB"], "park memory '9+' is more than any machine has"),
        (["target", "--threads=1000000000"], "threads must be 0 to 1024"),
        (["up", "--device=nope"], "device nope is no torch device; write cpu or cuda:0"),
        (["up", "--draft-device=cuda:x"], "device cuda:x is no torch device"),
        (["draft", "--slots=0"], "slots must be 1 to 4096"),
        (["target", "--width=12"], "width must be a multiple of 8"),
    ],
)
def test_what_no_engine_can_be_is_refused_before_anything_starts(
    arguments: list[str], named: str
) -> None:
    with pytest.raises(StartupError, match=named):
        run(*arguments)


def test_a_folder_that_is_there_is_handed_on_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of its name is taken for a home folder, an option, or a name on a hub."""
    monkeypatch.chdir(tmp_path)
    for name in ("~root", "-d", "owner/name"):
        (tmp_path / name).mkdir(parents=True)
        options = replace(TARGET_ENGINE, folder=Path(name))
        assert engine_arguments(options, TARGET_ENGINE) == [f"--model={tmp_path / name}"]


def test_a_name_that_no_file_can_have_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["outrider-server", "plan", "--target", "x" * 5000])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "outrider-server: a name is longer than any file's; give a shorter one\n"
    )


@pytest.mark.parametrize(
    "arguments", [["target", "--quantization=int4"], ["up", "--draft-dtype=int8"]]
)
def test_a_choice_that_does_not_exist_is_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.app, arguments).exit_code == 2


CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "folder": st.sampled_from(["models/large", "owner/name", "/a b/c"]).map(Path),
    "dtype": st.sampled_from(options.DTYPES),
    "device": st.sampled_from(["cpu", "cuda:1"]),
    "quantization": st.sampled_from(options.QUANTIZATIONS),
    "attention": st.sampled_from(options.ATTENTIONS),
    "slots": st.integers(8, 4096),
    "park_bytes": st.integers(0, 1 << 40) | st.integers(0, 100).map(lambda count: count << 30),
    "queue": st.integers(0, 1 << 16),
    "rows": st.integers(0, 8),
    "width": st.integers(1, 8).map(lambda count: 8 * count),
    "prefill_width": st.integers(1, 512).map(lambda count: 8 * count),
    "max_context_tokens": st.integers(0, 1 << 20),
    "compile": st.sampled_from(options.COMPILE_MODES),
    "reproducible": st.booleans(),
    "threads": st.integers(0, 64),
    "tensor_parallel": st.just(1),
}
DRAFT_HAS_NOT = {"queue", "width", "reproducible"}


def started_with(name: str, arguments: list[str]) -> EngineOptions:
    """The options that the service of this name runs with."""
    seen: list[EngineOptions] = []

    async def run_service(config: Any) -> None:
        seen.append(config.engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, f"run_{name}", run_service)
        patch.setattr(cli, "serve", asyncio.run)  # the real one ends this process
        run(name, *arguments)
    return seen[0]


def test_every_option_is_tried_below() -> None:
    assert set(CHOICES) == {field.name for field in fields(EngineOptions)}
    for kinds in (options.Dtype, options.Quantization, options.Attention, options.CompileMode):
        assert get_args(kinds)


@given(st.fixed_dictionaries({}, optional=CHOICES))
def test_the_arguments_of_any_options_make_them_again(changes: dict[str, Any]) -> None:
    """What `up` hands to its children is what it was told."""
    wanted = replace(TARGET_ENGINE, **changes)
    assert started_with("target", engine_arguments(wanted, TARGET_ENGINE)) == wanted
    of_draft = {name: value for name, value in changes.items() if name not in DRAFT_HAS_NOT}
    wanted = replace(DRAFT_ENGINE, **of_draft)
    assert started_with("draft", engine_arguments(wanted, DRAFT_ENGINE)) == wanted
