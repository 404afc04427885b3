"""Functions of a step's rows, recorded and replayed as a model is, to be compared with torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from outrider_server.core.progress import silent
from outrider_server.engine.packed_cache import PackedCache, PackedShape
from outrider_server.engine.program.lowering import RULES, Lowering
from outrider_server.engine.program.program import Program
from outrider_server.engine.program.views import TOKENS
from outrider_server.engine.program.weights import Recorded, pack_layers
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

Function = Callable[[torch.Tensor], torch.Tensor]
"""Of rows [1, T, 3, W]."""
ROWS, GROUPS = 40, 3
IDS = torch.arange(0, ROWS, 3)
LENGTH = 64


def table_of(width: int) -> torch.Tensor:
    """[ROWS, 3 W] float32, halves of whole numbers, so that some are equal and some are zero."""
    numbers = torch.randn((ROWS, GROUPS * width), generator=torch.Generator().manual_seed(width))
    return numbers.mul(4).round().div(2)


def rows_of(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """ids [1, T] -> [1, T, 3, W]."""
    return torch.nn.functional.embedding(ids, table).unflatten(-1, (GROUPS, -1))


def rules_of(module: ModuleType) -> set[str]:
    """The operators that a module has rules for."""
    return {name for name, rule in RULES.items() if rule.__module__ == module.__name__}


@dataclass(frozen=True)
class Recording:
    """A function's, over rows of a table."""

    graph: GraphModule

    @property
    def names(self) -> set[str]:
        """Of the operators in it."""
        return {str(node.target) for node in self.graph.graph.nodes if node.op == "call_function"}

    def replayed(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [T] -> [T, numbers], as a step of these tokens computes it."""
        lowered = Lowering().lower(self.graph)
        recorded = Recorded(lowered, pack_layers(lowered, torch.nn.Module(), [], silent))
        cache = PackedCache(1, PackedShape(1, 1, LENGTH, 1), torch.float32)
        history = torch.zeros((1, LENGTH), dtype=torch.int64)
        program = Program(recorded, cache, len(ids), history)
        positions = torch.arange(len(ids))
        inputs = torch.stack((ids, torch.zeros_like(ids), positions, positions + 1))
        return program.decide(inputs).clone()


def recorded(function: Function, table: torch.Tensor) -> Recording:
    """A function of rows that are looked up by a step's ids."""

    def forward(ids: torch.Tensor) -> torch.Tensor:
        return function(rows_of(table, ids))

    trace = make_fx(
        torch.func.functionalize(forward, remove="mutations"),
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
    )
    made = trace(torch.zeros((1, TOKENS), dtype=torch.int64))
    made.graph.eliminate_dead_code()
    return Recording(made)


def computed(function: Function, table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """What torch computes in float64, token by token: [T, numbers]."""
    alone = [function(rows_of(table.double(), one.view(1, 1))).double().flatten() for one in ids]
    return torch.stack(alone)
