"""What the lines of each suite say of given measurements."""

from __future__ import annotations

from typing import Any

import pytest
from outrider_bench.decode_lines import decode_lines, draw_series
from outrider_bench.first_token import first_token_lines
from outrider_bench.formula import SYNCHRONOUS, FixedPace
from outrider_bench.load import SESSIONS, load_lines, speed_together
from outrider_bench.network import ROUND_TRIPS_MS, network_lines
from outrider_bench.prefill import Gaps, gap_lines
from outrider_bench.results import Line
from outrider_bench.spread import Spread
from outrider_bench.step import cache_lines, step_lines
from outrider_bench.tasks import Measurement, Outcome, Task
from outrider_bench.turns import memory_lines

from .measured import measurement, summary, task

PACE = FixedPace(SYNCHRONOUS, 4)
SECONDS = {
    "outrider auto": 1.0,
    "outrider model": 1.5,
    "outrider off": 2.0,
    "transformers plain": 4.0,
    "transformers assisted 3": 3.5,
    "transformers assisted 8": 3.0,
    "llama.cpp plain": 2.5,
    "llama.cpp draft 3": 5.0,
    "llama.cpp draft, ngram-mod": 2.25,
    "openvino plain": 3.0,
    "openvino draft": 2.0,
    "co-located": 1.2,
    PACE.name: 2.0,
}


def turns() -> list[Measurement]:
    """Two prompts, each run by every system; the second one is twice as slow for all."""
    sources = "t" + "ddddt" * 6
    return [
        measurement(system, seconds * (1 + index), of=task(f"text {index}"), **details)
        for index in range(2)
        for system, seconds in SECONDS.items()
        for details in [summary(sources=sources) if system.startswith("outrider") else {}]
    ]


def value(lines: list[Line], what: str) -> Any:
    """The value of the one line that says `what`."""
    (line,) = [line for line in lines if line.what == what]
    return line.value.median if isinstance(line.value, Spread) else line.value


def test_ratios_are_taken_to_each_peer_and_to_the_best_of_each_kind() -> None:
    lines = decode_lines(turns(), [0.0], [PACE])
    assert value(lines, "outrider auto / transformers plain, greedy") == 4.0
    assert value(lines, "outrider auto / best assisted (8), greedy") == 3.0
    assert value(lines, "outrider auto / best llama.cpp (draft, ngram-mod), greedy") == 2.25
    assert value(lines, "outrider auto / best OpenVINO (draft), greedy") == 2.0
    assert value(lines, "outrider off / transformers plain, greedy") == 2.0
    assert value(lines, "outrider auto / outrider off, greedy") == 2.0
    assert value(lines, "outrider model / co-located, greedy") == 1.2 / 1.5


def test_decode_tells_agreement_formula_and_time_outside() -> None:
    lines = decode_lines(turns(), [0.0], [PACE])
    assert value(lines, "chance that the draft's guess agrees, greedy") == 1.0
    assert value(lines, f"measured / predicted time a token, {PACE.name}, greedy") == 10.0 / 4.0
    assert value(lines, "share of a turn outside both models, outrider auto, greedy") == 520 / 1020


def test_greedy_peers_are_compared_token_by_token() -> None:
    lines = decode_lines(turns(), [0.0], [PACE])
    assert value(lines, "greedy tokens before transformers plain differs from outrider off") == 4


def test_peers_that_did_not_run_have_no_lines() -> None:
    alone = [entry for entry in turns() if entry.system.startswith("outrider")]
    assert not [line for line in decode_lines(alone, [0.0], [PACE]) if "transformers" in line.what]


def test_the_chart_gets_a_point_for_each_prompt() -> None:
    points = draw_series(turns(), [0.0], [PACE])["agreement"]
    assert [point["agreement"] for point in points] == [1.0, 1.0]
    assert [point["systems"]["outrider auto"] for point in points] == [4.0, 2.0]


def test_the_table_says_which_setting_competed() -> None:
    ran = [measurement("openvino draft", guesses=5, backend="PA", mode="draft")]
    (line,) = [line for line in decode_lines(ran, [0.0], []) if line.unit == "tokens/s"]
    assert line.note == "guesses 5, backend PA"


def test_first_tokens_are_told_by_length_and_system() -> None:
    """A turn of one token is its first token, but for a system that says when that came."""
    long, short = (Task(str(size), (1,) * size, 1, 0.0, 1) for size in (512, 8))
    ran = [
        Measurement("peer", long, Outcome((1,), 0.5)),
        Measurement("peer", short, Outcome((1,), 9.0)),
        Measurement("ours", long, Outcome((1,), 0.5, first_seconds=0.25)),
    ]
    lines = first_token_lines(ran, [512], {"ours": 3.0, "peer": 4.0})
    assert value(lines, "first token of a prompt of 512, peer") == 500
    assert value(lines, "first token of a prompt of 512, ours") == 250
    assert value(lines, "ready, peer") == 4.0


def test_load_compares_sessions_and_modes() -> None:
    found = {
        (mode, sessions): [speed * sessions**0.5] * 2
        for mode, speed in (("auto", 30.0), ("off", 10.0))
        for sessions in SESSIONS
    }
    lines = load_lines(found, 0.7)
    assert round(value(lines, "auto at 8 sessions / auto at 1"), 6) == round(8**0.5, 6)
    assert value(lines, "auto at 8 sessions / off at 8") == 3.0


def test_network_compares_each_round_trip_with_no_draft() -> None:
    ran = [measurement("outrider off", 2.0)] + [
        measurement(f"outrider auto, {trip} ms", 1.0 + trip) for trip in ROUND_TRIPS_MS
    ]
    lines = network_lines(ran, (0.0,))
    assert value(lines, "auto / off, round trip 0 ms, temperature 0") == 2.0
    assert value(lines, "auto / off, round trip 1 ms, temperature 0") == 1.0


def test_gaps_are_told_before_and_while_a_prompt_is_read() -> None:
    lines = gap_lines([Gaps([5.0, 5.0, 6.0], [9.0, 30.0, 9.0]), Gaps([5.0], [])], 3000)
    assert value(lines, "between two tokens beside a prompt of 3000, before") == 5.0
    assert value(lines, "between two tokens beside a prompt of 3000, while it is read") == 9.0
    assert value(lines, "longest such gap while it is read") == 30.0


def test_memory_is_told_with_its_growth() -> None:
    lines = memory_lines({10: {"target": 100 << 20}, 1000: {"target": 103 << 20}})
    assert [line.note for line in lines] == ["", "+3.0 MiB"]
    assert value(lines, "target: resident memory after 1000 turns") == 103.0


def test_a_step_is_held_against_one_read_of_the_weights() -> None:
    """200 MB at 50 GB/s are 4 ms, half of a step of 8 ms."""
    facts = {"parameter_bytes": 200e6, "threads": 2}
    steps = {(2, 7): {"ms": [8.0, 8.0], "rows_per_step": 1.5}}
    lines = step_lines(facts, 50e9, steps)
    assert value(lines, "roofline of a step: every weight once") == 4.0
    (line,) = [line for line in lines if line.what.startswith("verify")]
    assert line.note == "50% of the roofline; 1.5 rows a step"


def test_the_cache_is_held_against_its_formula() -> None:
    facts = {
        "position_bytes": 1000,
        "cache_slots": 4,
        "cache_positions": 1025,
        "cache_headroom": 64,
        "cache_bytes": 1000 * 5 * 1152 + 5_760,
    }
    lines = cache_lines(facts)
    assert value(lines, "cache, allocated / formula") == pytest.approx(1.001)
    assert value(lines, "cache, for sessions alone") == 1000 * 4 * 1025 / 2**20


def test_the_speed_of_sessions_together_ends_with_the_first_of_them() -> None:
    """Two sessions for 2 s, then one alone: 4 and 3 tokens in the 2 s, whatever the slow one does later."""
    quick, slow = [10.5, 11.0, 11.5, 12.0], [10.6, 11.2, 11.8, 13.0, 14.0]
    assert speed_together([quick, slow], started=10.0) == pytest.approx(7 / 2)
    assert speed_together([quick], started=10.0) == pytest.approx(4 / 2)
