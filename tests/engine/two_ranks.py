"""One of two ranks, a process of the test of ranks: `two_ranks.py FOLDER`, with the launcher's variables set.

Every folder in FOLDER is a model. All are read by both ranks over their shares; the last one in name is then
mirrored: rank 0 runs an engine over it, the other follows. Each prints what came out, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Row
from outrider_server.engine.limits import StepLimits
from outrider_server.engine.model.loading import LoadedModel, load_model
from outrider_server.engine.step import StepRunner
from outrider_server.launching import gather
from transformers import AutoModelForCausalLM

RANKS = 2
LIMITS = StepLimits(2, 96, 8, 16, (1, 2))
TOKENS = tuple(7919 * (index + 1) % 61 for index in range(40))
DRAWS = {
    "greedy": Draw(SamplingParams(temperature=0.0), 0, 0),
    "sampled": Draw(SamplingParams(temperature=1.0), 7, 0),
    "penalized": Draw(
        SamplingParams(temperature=0.8, top_p=0.9, repetition_penalty=1.3, logit_bias={3: 2.0}),
        7,
        8,
    ),
}


def load(folder: Path, ranks: int) -> LoadedModel:
    return load_model(folder, "float32", torch.device("cpu"), ranks=ranks)


def difference(folder: Path) -> float:
    """Largest difference of a logit from the library's full forward pass on one rank."""
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = plain(torch.tensor([TOKENS])).logits[0]
    runner = StepRunner(load(folder, RANKS), LIMITS, "off")
    parts = [Row(1, start, TOKENS[start : start + 8]) for start in range(0, len(TOKENS), 8)]
    got = torch.cat([runner.logits([part], 1)[0].clone() for part in parts])
    return float((got - wanted).abs().max())


def decided(engine: Engine) -> dict[str, list[int]]:
    """What the engine decides by each draw, after prefill and in steps of every size, and after a wipe."""
    out = {}
    for name, draw in DRAWS.items():
        slot = engine.open(name, 1, 0, draw).slot
        engine.prefill(slot, 0, TOKENS[:16])
        tokens = [*engine.decide([(slot, 16, TOKENS[16:24])]).rows[0].tokens]
        engine.wipe(slot)
        tokens += engine.decide([(slot, 0, TOKENS[:3])]).rows[0].tokens
        out[name] = tokens
        engine.table.close(slot, slot.opening)
        engine.table.release(name, 1)
    return out


def left(runner: StepRunner) -> float:
    """The largest key that slot 0 holds beyond the one row that was read after its last wipe."""
    return max(
        float(layer.keys[0, :, LIMITS.width :].abs().max()) for layer in runner.forward.cache.layers
    )


def main() -> None:
    torch.set_num_threads(1)
    folders = sorted(Path(sys.argv[1]).iterdir())
    ranks = gather(folders[-1], RANKS, "cpu")
    ranks.group.join(torch.device("cpu"))
    differences = {folder.name: difference(folder) for folder in folders}
    shared = load(folders[-1], RANKS)
    if not ranks.leads:
        runner = StepRunner(shared, LIMITS, "auto", group=ranks.group)
        ranks.group.follow(runner, torch.device("cpu"))
        print(json.dumps({"left": left(runner)}))
        return
    engine = Engine(shared, LIMITS, "auto", group=ranks.group)
    alone = Engine(load(folders[-1], 1), LIMITS, "off")
    report = {
        "differences": differences,
        "shared": decided(engine),
        "alone": decided(alone),
        "left": [left(engine.runner), left(alone.runner)],
        "interchangeable": engine.audit.all_interchangeable,
        "notes": [engine.describe().ranks, engine.runner.compile_note, engine.runner.kernel_note],
        "cache": [each.runner.forward.cache.byte_count for each in (engine, alone)],
    }
    ranks.stop()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
