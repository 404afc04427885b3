"""The measurement of parking, on a tiny engine: what it moves is what it says."""

from __future__ import annotations

import pytest
from models_for_tests import loaded, tiny_limits, tiny_llama
from outrider_bench.parking import Parking, ParkingSettings, measured, table
from outrider_server.core.errors import StartupError
from outrider_server.engine.engine import Engine

REPEATS = 3


def test_a_session_is_read_parked_and_restored_each_time() -> None:
    engine = Engine(
        loaded(tiny_llama()), tiny_limits(slots=1, row_buckets=(1,)), "off", park_bytes=1 << 20
    )
    found = measured(engine, range(40), REPEATS)
    assert found.tokens == 40
    # Keys and values of 2 layers, 2 key heads of 8 elements in float32.
    assert found.byte_count == 40 * 2 * 2 * 2 * 8 * 4
    assert engine.parked.parked == engine.parked.restored == engine.counters.prefilled_tokens / 40
    assert engine.parked.restored > REPEATS  # the others warm up
    assert min(found.park_ms, found.restore_ms, found.prefill_ms) > 0
    assert engine.table.session_count == len(engine.parked) == 0


def test_the_table_says_how_much_dearer_reading_again_is() -> None:
    lines = table([Parking(128, 3 << 20, 0.5, 0.25, 10.0)]).splitlines()
    assert lines[-1] == "| 128 | 3.00 | 0.50 | 0.25 | 10.0 | 40 |"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": ()}, "lengths must be 1 to 4096 tokens"),
        ({"lengths": (0, 5)}, "lengths must be 1 to 4096 tokens"),
        ({"repeats": 0}, "repeats must be at least 1"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        ParkingSettings(**changes)  # type: ignore[arg-type]
