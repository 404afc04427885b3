"""Rows of a step as the drawing kernel takes them, and their draws by the kernel and by plain sampling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from outrider_server.engine.drawing.noise import gumbel_noise
from outrider_server.engine.drawing.sampling import DrawTable, Features, draw_tokens
from outrider_server.engine.layout import NOT_FINITE


@dataclass(frozen=True)
class Rows:
    """A slot a row: its logits, its most probable token, and how it is drawn, as the operator takes it."""

    logits: torch.Tensor
    best: torch.Tensor
    positions: torch.Tensor
    temperatures: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    floors: torch.Tensor
    seeds: torch.Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, part: slice) -> Rows:
        return Rows(*(column[part] for column in vars(self).values()))

    def over(self, logits: torch.Tensor) -> Rows:
        """The same rows over other logits."""
        return replace(self, logits=logits, best=logits.argmax(dim=-1))

    @property
    def arguments(self) -> tuple[torch.Tensor, ...]:
        slots = torch.arange(len(self))
        draws = (self.temperatures, self.top_k, self.top_p, self.floors, self.seeds)
        return (self.logits, self.best, slots, self.positions, *draws)

    @property
    def table(self) -> DrawTable:
        table = DrawTable(len(self), torch.device("cpu"))
        table.temperature.copy_(self.temperatures)
        table.top_k.copy_(self.top_k)
        table.top_p.copy_(self.top_p)
        table.floor.copy_(self.floors)
        table.seed.copy_(self.seeds)
        return table


def plain(rows: Rows) -> torch.Tensor:
    """The draws by torch: [N] int64."""
    vocabulary_size = rows.logits.shape[1]

    def noise(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return gumbel_noise(seeds, positions, vocabulary_size)

    filters = bool(
        (rows.top_k > 0).any() | (rows.top_p < 1).any() | (rows.floors > -torch.inf).any()
    )
    slots, features = torch.arange(len(rows)), Features(noise=True, filters=filters)
    logits, positions = rows.logits[:, None], rows.positions[:, None]
    drawn = draw_tokens(logits, positions, slots, rows.table, features, noise)[:, 0]
    return torch.where(rows.best == NOT_FINITE, NOT_FINITE, drawn)


def drawn(operators: Any, rows: Rows) -> torch.Tensor:
    """The draws by the kernel."""
    return operators.draw_sampled(*rows.arguments)


def some_rows(count: int, vocabulary_size: int, spread: float, seed: int) -> Rows:
    """Rows of every temperature, some of them greedy, over normal logits; none is filtered."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn((count, vocabulary_size), generator=generator)
    temperatures = 10 ** (5 * torch.rand(count, generator=generator, dtype=torch.float64) - 3)
    temperatures[torch.rand(count, generator=generator) < 0.1] = 0
    seeds = torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator)
    return Rows(
        logits,
        logits.argmax(dim=-1),
        positions=torch.randint(0, 100_000, (count,), generator=generator),
        temperatures=temperatures,
        top_k=torch.zeros(count, dtype=torch.int64),
        top_p=torch.ones(count, dtype=torch.float64),
        floors=torch.full((count,), -torch.inf, dtype=torch.float64),
        seeds=seeds,
    )
