"""How rows lie in a step: every token once at its place, no row cut in two; aligned, padding beside them."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from outrider_server.engine.layout import Layout, Row, packed_buckets

SCRATCH = 9
WIDTH = 8
LAYOUTS = st.builds(Layout, st.just(WIDTH), st.booleans(), st.just(SCRATCH))
ROWS = st.lists(
    st.tuples(
        st.integers(0, 90),
        st.lists(st.integers(1, 60), min_size=1, max_size=WIDTH).map(tuple),
        st.integers(0, 120),
    ),
    max_size=SCRATCH,
).map(lambda rows: [Row(slot, *told) for slot, told in enumerate(rows)])


def lengths_of(rows: list[Row]) -> list[int]:
    return [len(row.tokens) for row in rows]


@given(LAYOUTS, ROWS, st.integers(0, 4))
def test_every_row_begins_where_begins_says_and_keeps_its_order(
    layout: Layout, rows: list[Row], spare: int
) -> None:
    own = layout.tokens(lengths_of(rows))
    tokens = own + spare * WIDTH
    ids, slots, positions, lengths = layout.fill(rows, tokens)
    assert len(ids) == len(slots) == len(positions) == len(lengths)
    assert len(ids) == (own if layout.packed else tokens)
    for begin, row in zip(layout.begins(rows), rows, strict=True):
        length = len(row.tokens)
        part = slice(begin, begin + length)
        assert tuple(ids[part]) == row.tokens
        assert slots[part] == [row.slot] * length
        assert positions[part] == list(range(row.start_position, row.start_position + length))
        assert lengths[part] == [max(row.reading, position + 1) for position in positions[part]]


@given(LAYOUTS, ROWS, st.integers(0, 40))
def test_padding_never_touches_what_a_session_holds(
    layout: Layout, rows: list[Row], spare: int
) -> None:
    """Packed, there is none. Aligned, it is in the scratch slot, or follows what is committed of a row."""
    tokens = layout.tokens(lengths_of(rows)) + spare * WIDTH
    ids, slots, positions, _ = layout.fill(rows, tokens)
    of_rows: set[int] = set()
    for begin, row in zip(layout.begins(rows), rows, strict=True):
        of_rows |= set(range(begin, begin + len(row.tokens)))
    ends = {row.slot: row.start_position + len(row.tokens) for row in rows}
    padding = set(range(len(ids))) - of_rows
    assert not (layout.packed and padding)
    for index in padding:
        assert ids[index] == 0
        if slots[index] == SCRATCH:
            assert 0 <= positions[index] < WIDTH, "the scratch slot is no longer than any other"
        else:
            assert ends[slots[index]] <= positions[index] < ends[slots[index]] + WIDTH


@given(LAYOUTS, ROWS, st.integers(1, 16).map(lambda rows: rows * WIDTH))
def test_as_many_rows_fit_as_their_tokens_do_and_never_none(
    layout: Layout, rows: list[Row], tokens: int
) -> None:
    lengths = lengths_of(rows)
    fit = layout.rows_that_fit(lengths, tokens)
    assert layout.tokens(lengths[:fit]) <= tokens
    assert fit == len(rows) or layout.tokens(lengths[: fit + 1]) > tokens
    assert fit or not rows, "any row of at most `width` tokens fits into the smallest step"
    taken = layout.tokens(lengths[:fit]) if layout.packed else tokens
    assert len(layout.fill(rows[:fit], tokens)[0]) == taken


@given(ROWS)
def test_packing_takes_the_tokens_alone_and_aligning_the_width(rows: list[Row]) -> None:
    lengths = lengths_of(rows)
    assert Layout(WIDTH, True, SCRATCH).tokens(lengths) == sum(lengths)
    assert Layout(WIDTH, False, SCRATCH).tokens(lengths) == WIDTH * len(rows)


@given(st.booleans(), st.integers(1, 16), st.integers(16, 24))
def test_a_prefill_row_may_be_wider_than_a_step(packed: bool, count: int, width: int) -> None:
    row = Row(2, 5, tuple(range(1, count + 1)))
    ids, slots, positions, _ = Layout(WIDTH, packed, SCRATCH).fill([row], width, width)
    taken = count if packed else width
    assert ids == [*row.tokens, *[0] * (taken - count)]
    assert slots == [2] * taken
    assert positions == list(range(5, 5 + taken))


@given(st.integers(1, 300))
def test_packed_buckets_are_close_and_end_with_the_most(most: int) -> None:
    buckets = packed_buckets(most)
    assert buckets[0] == 1
    assert buckets[-1] == most
    for one, following in itertools.pairwise(buckets):
        assert one < following <= 2 * one
        assert one < 3 or following <= 1.5 * one, "a step is planned as half as large again at most"


def test_packed_buckets_of_eight_rows() -> None:
    assert packed_buckets(8) == (1, 2, 3, 4, 6, 8)
