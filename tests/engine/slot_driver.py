"""Attention over the packed slot cache at a level: its arithmetic in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from outrider_server.engine.kernels.levels import LEVELS

from .kernel_levels import ATTEND, CACHE, RECALL, REMEMBER, Driven, runs_here

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
VECTOR_UNIT = "amx, vector unit"
LEVEL_NAMES = tuple(level.name for level in LEVELS if runs_here(level))
UNITS = (*LEVEL_NAMES, VECTOR_UNIT) if "amx" in LEVEL_NAMES else LEVEL_NAMES


@dataclass(frozen=True)
class Rules:
    """As in `attention_kernels.py`; the slopes are of all heads."""

    scaling: float = 0.2
    softcap: float = 0.0
    window: int = 0
    slopes: tuple[float, ...] = ()


@dataclass(frozen=True)
class CacheShape:
    slots: int
    key_heads: int
    length: int
    head_dim: int

    @property
    def key_count(self) -> int:
        return self.slots * self.key_heads * self.length * (self.head_dim + self.head_dim % 2)

    @property
    def value_count(self) -> int:
        return self.slots * self.key_heads * self.length * -(-self.head_dim // 16) * 16


class SlotKernels(Driven):
    """One cache at a time, which holds zeros when it is made."""

    def __init__(self, unit: str) -> None:
        super().__init__(next(level for level in LEVELS if level.name == unit.split(",")[0]))
        self.unit = unit
        self.use_tile_unit(unit != VECTOR_UNIT)

    def make_cache(self, shape: CacheShape, dtype: torch.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        sizes = (shape.slots, shape.key_heads, shape.head_dim, shape.length)
        self._send(CACHE, (DTYPES.index(dtype), *sizes), ())

    def remember(self, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor) -> None:
        """keys, values [T, K, D] float32; places [2, T] int64, slots and positions."""
        self._send(REMEMBER, (len(keys),), (torch.stack((keys, values), dim=2), places))

    def recall(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the cache holds, as it lies there."""
        count = self._shape.key_count
        held = torch.empty(count + self._shape.value_count, dtype=self._dtype)
        self._ask(RECALL, (), (), held)
        return held[:count], held[count:]

    def attend(self, query: torch.Tensor, places: torch.Tensor, rules: Rules) -> torch.Tensor:
        """query [T, H, D] float32, places [2, T] -> [T, H, D]."""
        numbers, slopes = torch.tensor([rules.scaling, rules.softcap]), torch.tensor(rules.slopes)
        sizes = (*query.shape[:2], rules.window, len(rules.slopes))
        arrays = (numbers, slopes, query, places)
        return self._ask(ATTEND, sizes, arrays, torch.empty_like(query))
