"""The shape audit: it finds what differs, uses only what agrees, and says both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from models_for_tests import (
    loaded,
    needs_kernels,
    packable_llama,
    tiny_limits,
    tiny_llama,
    tiny_runner,
)
from outrider_server.engine.audit import audit_shapes
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Row
from outrider_server.engine.packed_cache import CHUNK
from outrider_server.engine.step import StepRunner

BUCKETS = (1, 2, 4)


class PlantedRunner(StepRunner):
    """A runner whose logits depend on the shape, as `fault` says."""

    fault = "none"

    def logits(self, rows: Sequence[Row], bucket: int) -> list[torch.Tensor]:
        logits = super().logits(rows, bucket)
        spoiled = {
            "rows": bucket == 2,
            "neighbours": bucket == 2 and len(rows) > 1,
            "chunking": bucket == 2 and len(rows[-1].tokens) == 1,
            "largest": bucket == 4 and len(rows) > 1,
        }
        if spoiled.get(self.fault):
            return [of_row * (1 + 2**-20) for of_row in logits]
        return logits

    def prefill(self, row: Row) -> None:
        super().prefill(row)
        if self.fault == "prefill":
            self.forward.cache.layers[0].values[row.slot, :, 0] += 1e-3


def planted(fault: str) -> PlantedRunner:
    runner = PlantedRunner(loaded(tiny_llama()), tiny_limits(row_buckets=BUCKETS), "off")
    runner.fault = fault
    return runner


class PlantedRecording(StepRunner):
    """A runner of recorded steps, whose numbers depend on the step, as `fault` says."""

    fault = "none"

    def logits(self, rows: Sequence[Row], bucket: int) -> list[torch.Tensor]:
        return self._spoiled(super().logits(rows, bucket), rows, self.fault == "later layers")

    def excerpt(self) -> Callable[[Sequence[Row], int], list[torch.Tensor]]:
        step = super().excerpt()
        return lambda rows, bucket: self._spoiled(step(rows, bucket), rows, False)

    def _spoiled(
        self, of_rows: list[torch.Tensor], rows: Sequence[Row], later: bool
    ) -> list[torch.Tensor]:
        last = rows[-1]
        spoiled = {
            "tokens": sum(len(row.tokens) for row in rows) == 12,
            "far neighbours": any(row.reading for row in rows),
            "chunks": last.start_position < CHUNK < last.start_position + len(last.tokens),
            "later layers": later and len(rows) > 1,
        }
        if spoiled.get(self.fault):
            return [each * (1 + 2**-20) for each in of_rows]
        return of_rows

    def prefill(self, row: Row) -> None:
        super().prefill(row)
        if self.fault == "prefill":
            keys, _ = self.forward.cache.slot_layers(row.slot)[-1]
            keys += 1


@needs_kernels
@pytest.mark.parametrize(
    ("fault", "variation"),
    [
        ("none", ""),
        ("tokens", "row 4 after short rows"),
        ("far neighbours", "row 4 beside the longest"),
        ("chunks", "steps of every length, across 512 positions"),
        ("later layers", "all layers, row 4 among neighbours"),
        ("prefill", "prefill before verify"),
    ],
)
def test_recorded_steps_that_differ_are_reported(fault: str, variation: str) -> None:
    model = packable_llama(max_position_embeddings=1024)
    limits = tiny_limits(slots=5, max_context_tokens=600, row_buckets=(5,))
    runner = PlantedRecording(loaded(model), limits, "auto")
    runner.fault = fault
    audit = audit_shapes(runner, reproducible=False)
    found = {finding.variation for finding in audit.findings if not finding.identical}
    assert variation in found if variation else not found
    assert audit.all_interchangeable == (fault == "none")


def test_a_runner_whose_shapes_agree_keeps_every_bucket() -> None:
    """Whether a machine's shapes agree is its own affair; a runner of one shape always agrees."""
    runner = tiny_runner(limits=tiny_limits(row_buckets=(4,)))
    audit = audit_shapes(runner, reproducible=False)
    assert audit.row_buckets == (4,)
    assert {finding.in_use for finding in audit.findings} == {True}


def test_a_bucket_that_differs_is_reported_and_not_used() -> None:
    for fault in ("rows", "neighbours", "chunking"):
        audit = audit_shapes(planted(fault), reproducible=False)
        assert 2 not in audit.row_buckets, fault
        assert audit.row_buckets[-1] == 4
        assert not audit.all_interchangeable
        wrong = [
            finding for finding in audit.findings if finding.rows == 2 and not finding.identical
        ]
        assert wrong
        assert all(finding.max_difference > 0 for finding in wrong)
        assert not any(finding.in_use for finding in audit.findings if finding.rows == 2)


def test_the_largest_bucket_is_used_even_where_it_differs_and_says_so() -> None:
    audit = audit_shapes(planted("largest"), reproducible=False)
    assert 4 in audit.row_buckets
    wrong = [finding for finding in audit.findings if finding.rows == 4 and not finding.identical]
    variations = [finding.variation for finding in wrong]
    assert variations == [
        "row 3 after short rows",
        "row 3 among neighbours",
        "row 3 beside the longest",
    ]
    assert wrong[0].in_use


def test_prefill_that_differs_is_reported() -> None:
    audit = audit_shapes(planted("prefill"), reproducible=False)
    assert not audit.all_interchangeable
    found = [finding for finding in audit.findings if "prefill" in finding.variation]
    assert [finding.identical for finding in found] == [False]
    assert found[0].width == 16


def test_reproducible_pins_the_largest_bucket() -> None:
    audit = audit_shapes(planted("rows"), reproducible=True)
    assert audit.reproducible
    assert audit.row_buckets == (4,)


def test_what_differs_is_never_run_by_the_engine() -> None:
    engine = Engine(loaded(tiny_llama()), tiny_limits(row_buckets=BUCKETS), "off")
    engine.audit = audit_shapes(planted("rows"), reproducible=False)
    ran: list[int] = []
    decide = engine.runner.decide

    def watched(rows: Sequence[Row], bucket: int) -> object:
        ran.append(bucket)
        return decide(rows, bucket)

    engine.runner.decide = watched
    slots = [engine.table.open(name, 1) for name in "abcd"]
    for count in range(1, 5):
        engine.decide([(slot, 0, (1,)) for slot in slots[:count]])
    assert 2 not in ran
    assert ran[1:] == [4, 4, 4]


def test_the_audit_leaves_no_session_and_every_slot_greedy() -> None:
    engine = Engine(loaded(tiny_llama()), tiny_limits(), "off")
    assert engine.table.session_count == 0
    assert (engine.runner.draws.temperature == 0).all()
    assert engine.counters.verify_steps == 0


def test_a_context_shorter_than_the_audit_is_audited_as_far_as_it_goes() -> None:
    audit = audit_shapes(tiny_runner(limits=tiny_limits(max_context_tokens=5)), False)
    assert audit.row_buckets[-1] == 4
