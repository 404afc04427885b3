"""A start that another one went before: what it believes, what it checks, and what it measures anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import (
    loaded,
    needs_kernels,
    packable_llama,
    packed_runner,
    tiny_limits,
    tiny_llama,
    tiny_runner,
)
from outrider_server.core.progress import Report, Stage
from outrider_server.engine import machine
from outrider_server.engine.attention import attention_choice
from outrider_server.engine.attention.attention import slot_attention
from outrider_server.engine.audit import audit_shapes
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Row
from outrider_server.engine.records import Records
from outrider_server.engine.starting import Start
from outrider_server.engine.step import StepRunner

MEASURING = {Stage.CHOOSING, Stage.AUDITING}


def started(folder: Path, seed: int = 0, **options: Any) -> tuple[Engine, list[Stage]]:
    """An engine that keeps its records there, and the stages of its start in order."""
    reports: list[Report] = []
    start = Start(reports.append, Records(folder))
    limits = options.pop("limits", tiny_limits())
    engine = Engine(loaded(tiny_llama(seed)), limits, "off", start=start, **options)
    return engine, list(dict.fromkeys(report.stage for report in reports))


def test_the_second_start_believes_the_first_and_decides_the_same(tmp_path: Path) -> None:
    first, measured = started(tmp_path)
    second, believed = started(tmp_path)
    assert set(measured) >= MEASURING
    assert not MEASURING & set(believed)
    assert Stage.COMPARING in believed
    assert second.audit == first.audit
    assert second.arithmetic == first.arithmetic
    assert second.runner.attention.note == f"{first.runner.attention.note}, at an earlier start"


def other_cpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "cpu_fact", lambda name: f"another {name}")


def other_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "version", lambda package: f"another {package}")


def other_compiler(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "_file", lambda path: f"{path} of another version")


def other_sources(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "_sources_digest", lambda: "another")


def other_instructions(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


def other_threads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "get_num_threads", lambda: 77)


CHANGES = [
    other_cpu,
    other_version,
    other_compiler,
    other_sources,
    other_instructions,
    other_threads,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_start_on_another_machine_found_is_measured_anew_and_kept_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    started(tmp_path)
    with monkeypatch.context() as patch:
        change(patch)
        assert set(started(tmp_path)[1]) >= MEASURING
        assert not MEASURING & set(started(tmp_path)[1])
    assert not MEASURING & set(started(tmp_path)[1])


@pytest.mark.parametrize(
    "options",
    [
        {"limits": tiny_limits(prefill_width=8)},
        {"limits": tiny_limits(max_context_tokens=90)},
        {"reproducible": True},
        {"attention": "math"},
    ],
    ids=str,
)
def test_what_a_start_of_other_options_found_is_measured_anew(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    started(tmp_path)
    assert Stage.AUDITING in started(tmp_path, **options)[1]
    assert Stage.AUDITING not in started(tmp_path, **options)[1]


def test_what_a_start_of_another_model_found_is_measured_anew(tmp_path: Path) -> None:
    model, start = replace(loaded(tiny_llama()), model_fingerprint="another"), Records(tmp_path)
    started(tmp_path)
    reports: list[Report] = []
    Engine(model, tiny_limits(), "off", start=Start(reports.append, start))
    assert {report.stage for report in reports} >= MEASURING


def test_a_start_whose_logits_have_other_bits_believes_no_audit_and_writes_its_own(
    tmp_path: Path,
) -> None:
    """The fingerprint samples weights, and is the same for both of these."""
    first, _ = started(tmp_path)
    second, stages = started(tmp_path, seed=1)
    assert stages.index(Stage.COMPARING) < stages.index(Stage.AUDITING)
    assert second.audit.logits_digest != first.audit.logits_digest
    again, believed = started(tmp_path, seed=1)
    assert Stage.AUDITING not in believed
    assert again.audit == second.audit


@pytest.mark.parametrize(
    "change",
    [
        {"row_buckets": [1, 3, 4]},
        {"row_buckets": [1]},
        {"row_buckets": None},
        {"reproducible": True},
        {"findings": [{}]},
        {"more": 1},
    ],
    ids=str,
)
def test_an_outcome_that_is_no_audit_of_these_sizes_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    started(tmp_path)
    recall = Records.recall
    monkeypatch.setattr(
        Records,
        "recall",
        lambda self, kind: {**recall(self, kind), **(change if kind == "audit" else {})},
    )
    assert Stage.AUDITING in started(tmp_path)[1]


def test_a_start_under_load_takes_the_kernel_that_was_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = started(tmp_path)
    others = {"sdpa", "math", "eager"} - {first.runner.attention.kernel}
    monkeypatch.setattr(
        attention_choice,
        "_measure",
        lambda calls: {kernel: 1.0 if kernel in others else 9.0 for kernel in calls},
    )
    assert started(tmp_path)[0].arithmetic == first.arithmetic
    assert started(tmp_path / "empty")[0].arithmetic != first.arithmetic


def breaking(broken: str) -> Callable[..., torch.Tensor]:
    def attend(*arguments: Any) -> torch.Tensor:
        if arguments[4] == broken:
            raise RuntimeError(f"{broken} broke")
        return slot_attention(*arguments)

    return attend


def test_a_kept_kernel_that_does_not_run_any_more_is_chosen_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = started(tmp_path)[0].runner.attention.kernel
    monkeypatch.setattr(attention_choice, "slot_attention", breaking(kernel))
    assert started(tmp_path)[0].runner.attention.kernel != kernel


def test_a_choice_among_kernels_of_which_one_broke_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(attention_choice, "slot_attention", breaking("sdpa"))
        started(tmp_path)
    assert Stage.CHOOSING in started(tmp_path)[1]


class CountingRunner:
    """Counts the steps of each bucket that a runner takes."""

    def __init__(self, runner: StepRunner) -> None:
        self.steps: Counter[int] = Counter()
        self._logits = runner.logits
        runner.logits = self.logits  # type: ignore[method-assign]

    def logits(self, rows: Sequence[Row], bucket: int) -> list[torch.Tensor]:
        self.steps[bucket] += 1
        return self._logits(rows, bucket)


def test_an_audit_takes_few_steps_of_each_size() -> None:
    """Five full rows, for each kind of neighbour again, and twelve steps of every length."""
    runner = tiny_runner(limits=tiny_limits(row_buckets=(1, 4)))
    counting = CountingRunner(runner)
    audit_shapes(runner, reproducible=False)
    reference, prefill = 5, 3
    assert counting.steps == {1: 5 + 12, 4: 4 * 5 + 12 + reference + prefill}


@needs_kernels
def test_an_audit_takes_few_steps_of_all_layers_of_a_recorded_model() -> None:
    """Three full rows, and again among neighbours, nine steps of every length, and two after prefill."""
    runner = packed_runner(packable_llama(num_hidden_layers=6), tiny_limits(row_buckets=(1, 4)))
    counting = CountingRunner(runner)
    audit_shapes(runner, reproducible=False)
    assert counting.steps == {4: 3 + 3 + 2 + 9}


def test_narrow_rows_read_a_shorter_text(tmp_path: Path) -> None:
    runner = tiny_runner(limits=tiny_limits(width=2, row_buckets=(1, 4)))
    counting = CountingRunner(runner)
    audit_shapes(runner, reproducible=False)
    assert counting.steps == {1: 8 + 10, 4: 4 * 8 + 10 + 8 + 4}
