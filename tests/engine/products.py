"""One packed layer by itself, multiplied as a step does it: a program that looks up rows for it."""

from __future__ import annotations

import torch
from outrider_server.engine.packed_cache import BLOCK, PackedCache, PackedShape
from outrider_server.engine.program.computations import (
    Buffer,
    LookedUp,
    Lowered,
    Multiplied,
    Placed,
)
from outrider_server.engine.program.program import Program
from outrider_server.engine.program.recorded import Recorded
from outrider_server.engine.program.weights import PackedLayer


def multiply(layer: PackedLayer, tokens: torch.Tensor) -> torch.Tensor:
    """tokens [T, K] -> their products [T, N], float32."""
    count, inputs = tokens.shape
    read, lowered = Buffer(inputs), Lowered(logits=Buffer(layer.outputs))
    looked_up = LookedUp(
        tokens.float().contiguous(),
        inputs,
        1,
        Placed(read, 0, (0, 0, inputs, 1)),
        (Placed(lowered.ids),),
    )
    lowered.computations = [looked_up, Multiplied(0, Placed(lowered.logits), (Placed(read),))]
    cache = PackedCache(0, PackedShape(1, 1, BLOCK, 16), torch.float32)
    history = torch.zeros((1, count), dtype=torch.int64)
    program = Program(Recorded(lowered, [layer]), cache, count, history)
    ids = torch.arange(count)
    steps = torch.stack((ids, torch.zeros_like(ids), ids, ids + 1))
    return program.decide(steps).clone()
