"""The packed slot cache: memory that is taken as slots fill, and parking."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from outrider_server.engine.cache import SlotCache
from outrider_server.engine.packed_cache import DTYPES, GROUP, PackedCache, PackedShape
from outrider_server.engine.parking import ParkableCache, ParkedSession, read_slot, write_slot
from transformers import LlamaConfig

MIB = 1 << 20
PAGE = 4096


def resident() -> int:
    """Bytes of this process's memory that are there."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def packed(dtype: torch.dtype = torch.bfloat16, head_dim: int = 20) -> PackedCache:
    return PackedCache(2, PackedShape(3, 2, 128, head_dim), dtype)


def plain(dtype: torch.dtype = torch.bfloat16) -> SlotCache:
    config = LlamaConfig(
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, hidden_size=40
    )
    return SlotCache(config, 3, 128, dtype, torch.device("cpu"))


def fill(cache: ParkableCache, slot: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for pair in cache.slot_layers(slot):
        for held in pair:
            held.copy_(torch.randn(held.shape, generator=generator))


def content(cache: ParkableCache, slot: int) -> list[torch.Tensor]:
    return [held.clone() for pair in cache.slot_layers(slot) for held in pair]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_new_cache_is_zero_and_its_addresses_are_where_its_tensors_lie(
    dtype: torch.dtype,
) -> None:
    cache = packed(dtype)
    for slot in range(3):
        assert all(not held.any() for held in content(cache, slot))
    cache.slot_layers(0)[1][0].view(-1)[0] = 1.0
    keys, values = cache.addresses(1)
    assert ctypes.string_at(keys, dtype.itemsize) != bytes(dtype.itemsize)
    assert ctypes.string_at(values, dtype.itemsize) == bytes(dtype.itemsize)


def test_its_bytes_are_those_of_padded_heads() -> None:
    """Keys of 33 dimensions take 34 of them, values 48."""
    positions = 2 * 3 * 2 * 128
    assert packed(torch.float32, head_dim=33).byte_count == positions * (34 + 48) * 4
    assert packed(torch.bfloat16, head_dim=64).byte_count == positions * 128 * 2


@pytest.mark.parametrize("head_dim", [1, 20, 64])
def test_a_wiped_slot_is_zero_and_its_neighbours_are_as_they_were(head_dim: int) -> None:
    """Also where slots begin and end within pages."""
    cache = packed(head_dim=head_dim)
    for slot in range(3):
        fill(cache, slot, slot)
    before = [content(cache, slot) for slot in range(3)]
    cache.wipe(1)
    assert all(not held.any() for held in content(cache, 1))
    assert same(content(cache, 0), before[0])
    assert same(content(cache, 2), before[2])


def test_slots_take_memory_as_they_fill_and_give_it_back_when_they_are_wiped() -> None:
    before = resident()
    cache = PackedCache(2, PackedShape(16, 2, 4096, 64), torch.float32)
    assert cache.byte_count == 128 * MIB
    assert resident() - before < 4 * MIB
    for keys, values in cache.slot_layers(5):
        keys.fill_(1.0)
        values[:, :128].fill_(1.0)
    assert 5 * MIB <= resident() - before < 9 * MIB, "keys of a slot, and half of its values"
    cache.wipe(5)
    cache.wipe(6)
    assert resident() - before < 4 * MIB


@pytest.mark.parametrize("make", [packed, plain])
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 128])
def test_what_was_read_of_a_slot_stands_in_another_when_it_is_written(
    make: Callable[[], ParkableCache], length: int
) -> None:
    """And what stands behind it there stays."""
    cache = make()
    fill(cache, 0, 1)
    fill(cache, 2, 2)
    before = content(cache, 2)
    layers = read_slot(cache, 0, length)
    fill_again = content(cache, 0)
    write_slot(cache, 2, layers)
    groups = -(-length // cache.group_size)
    for old, new, source in zip(before, content(cache, 2), fill_again, strict=True):
        assert torch.equal(new[:, :groups], source[:, :groups])
        assert torch.equal(new[:, groups:], old[:, groups:])
    whole = sum(held.nbytes for held in before)
    assert layers.byte_count == whole * groups * cache.group_size // 128


@pytest.mark.parametrize("make", [packed, plain])
def test_a_parked_copy_of_fewer_tokens_has_tensors_of_its_own(
    make: Callable[[], ParkableCache],
) -> None:
    cache = make()
    fill(cache, 0, 1)
    parked = ParkedSession(1, tuple(range(100)), read_slot(cache, 0, 100))
    copy = parked.up_to(17, 2)
    assert len(copy.tokens) == 17
    assert copy.byte_count * 100 < parked.byte_count * 33
    wanted = read_slot(cache, 0, 17)
    for pair in parked.layers.pairs:
        for part in pair:
            part.zero_()
    for one, other in zip(copy.layers.pairs, wanted.pairs, strict=True):
        assert same(list(one), list(other))


def test_positions_that_lie_together_are_parked_together() -> None:
    assert packed().group_size == GROUP == 16
    assert read_slot(packed(), 0, 17).pairs[0][0].shape[1] == 2
