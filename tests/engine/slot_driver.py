"""Attention over the packed slot cache at a level: its arithmetic in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from outrider_server.engine.packed_cache import DTYPES, PackedShape

from .kernel_levels import ATTEND, CACHE, RECALL, REMEMBER, DrivenUnit


@dataclass(frozen=True)
class Rules:
    """As in `attention_kernels.py`; the slopes are of all heads."""

    scaling: float = 0.2
    softcap: float = 0.0
    window: int = 0
    slopes: tuple[float, ...] = ()


class SlotKernels(DrivenUnit):
    """One cache at a time, which holds zeros when it is made."""

    def make_cache(self, shape: PackedShape, dtype: torch.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        sizes = (shape.slots, shape.key_heads, shape.head_dim, shape.length)
        self._send(CACHE, (DTYPES.index(dtype), *sizes), ())

    def remember(self, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor) -> None:
        """keys, values [T, K, D] float32; places [2, T] int64, slots and positions."""
        self._send(REMEMBER, (len(keys),), (torch.stack((keys, values), dim=2), places))

    def recall(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as they lie there, in the sizes of `PackedCache`."""
        sizes = self._shape.key_sizes, self._shape.value_sizes
        counts = [torch.Size(each).numel() for each in sizes]
        held = self._ask(RECALL, (), (), torch.empty(sum(counts), dtype=self._dtype))
        keys, values = held.split(counts)
        return keys.view(sizes[0]), values.view(sizes[1])

    def attend(self, query: torch.Tensor, places: torch.Tensor, rules: Rules) -> torch.Tensor:
        """query [T, H, D] float32, places [2, T] -> [T, H, D]."""
        numbers, slopes = torch.tensor([rules.scaling, rules.softcap]), torch.tensor(rules.slopes)
        sizes = (*query.shape[:2], rules.window, len(rules.slopes))
        arrays = (numbers, slopes, query, places)
        return self._ask(ATTEND, sizes, arrays, torch.empty_like(query))
