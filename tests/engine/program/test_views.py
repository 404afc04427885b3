"""How a recording's tensors lie in rows, against the strides of torch's own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.engine.program.views import TOKENS, NotRecorded, View, dense_view, merged

COUNT = 3
"""Tokens of the tensors."""


@dataclass(frozen=True)
class Seen:
    """A view, and the tensor that it is to be."""

    view: View
    tensor: torch.Tensor

    def check(self, rows: torch.Tensor) -> None:
        """rows [COUNT, numbers], as they lie in a buffer."""
        strides = list(self.view.strides)
        strides[self.view.token_dim] = rows.shape[1]
        looked_at = rows.as_strided(real(self.view.sizes), strides, self.view.offset)
        assert torch.equal(looked_at, self.tensor)


def real(sizes: tuple[int, ...]) -> list[int]:
    return [COUNT if size == TOKENS else size for size in sizes]


@st.composite
def started(draw: st.DrawFn) -> tuple[torch.Tensor, Seen]:
    """Rows of a buffer, and all of them as a tensor of some sizes."""
    inner = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    rows = torch.arange(COUNT * torch.Size(inner).numel()).view(COUNT, -1)
    place = draw(st.integers(0, len(inner)))
    tensor = rows.view(COUNT, *inner).movedim(0, place)
    return rows, Seen(dense_view((*inner[:place], TOKENS, *inner[place:])), tensor)


def stepped(draw: st.DrawFn, seen: Seen) -> Seen:
    """Looked at in another way, by the view's own methods and by torch's."""
    view, tensor = seen.view, seen.tensor
    dims = [dim for dim in range(len(view.sizes)) if dim != view.token_dim]
    move = draw(st.sampled_from(["moved", "narrowed", "expanded", "without"]))
    if move == "moved":
        order = draw(st.permutations(range(len(view.sizes))))
        return Seen(view.moved(order), tensor.permute(order))
    if move == "narrowed" and dims:
        dim = draw(st.sampled_from(dims))
        start = draw(st.integers(0, view.sizes[dim] - 1))
        step = draw(st.integers(1, 2))
        size = draw(st.integers(1, 1 + (view.sizes[dim] - 1 - start) // step))
        index = torch.arange(start, start + size * step, step)
        return Seen(view.narrowed(dim, start, size, step), tensor.index_select(dim, index))
    if move == "expanded":
        sizes = [3 if size == 1 and draw(st.booleans()) else size for size in view.sizes]
        front = draw(st.lists(st.integers(1, 2), max_size=1))
        return Seen(view.expanded((*front, *sizes)), tensor.expand(*front, *real(tuple(sizes))))
    single = [dim for dim in dims if view.sizes[dim] == 1]
    if move == "without" and single:
        return Seen(view.without(single[0]), tensor.squeeze(single[0]))
    return seen


@given(data=st.data(), begun=started())
def test_what_is_looked_at_is_what_torch_looks_at(
    data: st.DataObject, begun: tuple[torch.Tensor, Seen]
) -> None:
    rows, seen = begun
    seen.check(rows)
    for _ in range(data.draw(st.integers(1, 4))):
        seen = stepped(data.draw, seen)
        seen.check(rows)


@given(data=st.data(), begun=started())
def test_other_sizes_are_torchs_and_a_copy_is_wanted_where_torch_wants_one(
    data: st.DataObject, begun: tuple[torch.Tensor, Seen]
) -> None:
    rows, seen = begun
    for _ in range(data.draw(st.integers(0, 2))):
        seen = stepped(data.draw, seen)
    place = seen.view.token_dim
    parts = [
        data.draw(factors(torch.Size(part).numel()))
        for part in (seen.view.sizes[:place], seen.view.sizes[place + 1 :])
    ]
    sizes = (*parts[0], TOKENS, *parts[1])
    found = seen.view.reshaped(sizes)
    strides = list(seen.view.strides)
    strides[place] = 10**6  # as the tokens' is no multiple of any other
    apart = torch.empty_strided(real(seen.view.sizes), strides, device="meta")
    if found is None:
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            apart.view(real(sizes))
    else:
        apart.view(real(sizes))
        Seen(found, seen.tensor.reshape(real(sizes))).check(rows)


@st.composite
def factors(draw: st.DrawFn, number: int) -> list[int]:
    """Sizes of so many numbers, ones among them."""
    found = []
    while number > 1:
        size = draw(st.sampled_from([size for size in range(1, number + 1) if number % size == 0]))
        found.append(size)
        number //= size
    return found + [1] * draw(st.integers(0, 1))


@given(begun=started())
def test_dense_is_what_lies_in_order_without_gaps(begun: tuple[torch.Tensor, Seen]) -> None:
    rows, seen = begun
    for order in itertools.permutations(range(len(seen.view.sizes))):
        view = seen.view.moved(order)
        alone = seen.tensor.permute(order).select(view.token_dim, 1)
        assert view.dense is torch.equal(alone.flatten(), rows[1])


@given(
    sizes=st.lists(st.integers(1, 4), max_size=4),
    operands=st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=1, max_size=3),
)
def test_merged_loops_visit_the_same_numbers_in_the_same_order(
    sizes: list[int], operands: list[list[int]]
) -> None:
    loops = [(size, tuple(one[dim] for one in operands)) for dim, size in enumerate(sizes)]

    def visited(nested: list[tuple[int, tuple[int, ...]]]) -> list[tuple[int, ...]]:
        return [
            tuple(
                sum(at * strides[which] for at, (_, strides) in zip(place, nested, strict=True))
                for which in range(len(operands))
            )
            for place in itertools.product(*(range(size) for size, _ in nested))
        ]

    assert visited(merged(loops)) == visited(loops)
    assert len(merged([(4, (6, 0)), (1, (9, 9)), (3, (2, 0)), (2, (1, 0))])) == 1


@pytest.mark.parametrize("sizes", [(4, 6), (TOKENS, TOKENS), (TOKENS * 2,)])
def test_a_tensor_has_one_dimension_of_tokens(sizes: tuple[int, ...]) -> None:
    with pytest.raises(NotRecorded, match="it mixes a step's tokens with other dimensions"):
        dense_view(sizes)


def test_what_mixes_tokens_is_refused() -> None:
    view = dense_view((1, TOKENS, 2, 3))
    with pytest.raises(NotRecorded, match="it mixes the order of tokens"):
        view.moved((0, 2, 1, 3)).reshaped((TOKENS, 2, 3))
    with pytest.raises(NotRecorded, match="it takes some of a step's tokens apart"):
        view.narrowed(1, 0, 5)
    with pytest.raises(NotRecorded, match="it mixes a step's tokens"):
        view.reshaped((TOKENS * 2, 3))
    assert view.narrowed(1, 0, TOKENS) == view
