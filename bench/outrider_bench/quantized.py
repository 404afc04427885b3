"""Quantized weights against plain ones: bytes, time of a step, perplexity, and agreement as draft and target.

Prints tables in Markdown.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Row
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.options import QUANTIZATIONS, CompileMode, EngineOptions, Quantization
from outrider_server.host.building import engine_builder
from outrider_server.models import held_out_prompts
from outrider_server.models.training.evaluate import measure_agreement
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import PreTrainedModel

from .model_folder import check_model_folder

STEPS = 24
WIDTH = 8
PROMPT_TOKENS = 64
NEW_TOKENS = 64
TEMPERATURES = (0.0, 1.0)
MIXES = (
    ("none", "none"),
    ("none", "int8"),
    ("none", "nf4"),
    ("none", "fp4"),
    ("int8", "none"),
    ("int8", "int8"),
    ("nf4", "none"),
    ("nf4", "nf4"),
)
"""Target and draft."""


def plain_model(folder: Path, quantization: str) -> PreTrainedModel:
    """The model on the library's own attention, for texts read at once."""
    model = load_model(folder, "auto", torch.device("cpu"), quantization).model
    model.set_attn_implementation("sdpa")
    return model


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of weights and of the scales of quantized ones."""
    total = 0
    for tensor in [*model.parameters(), *model.buffers()]:
        total += tensor.nbytes
        state = getattr(tensor, "quant_state", None)
        total += state.absmax.nbytes if state is not None else 0
    return total


@torch.inference_mode()
def perplexity(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> float:
    """Of each token of a text given those before it."""
    nats, count = 0.0, 0
    for text in texts:
        tokens = torch.tensor(text)
        logits = model(input_ids=tokens[None, :-1], use_cache=False).logits[0].float()
        nats += functional.cross_entropy(logits, tokens[1:], reduction="sum").item()
        count += len(tokens) - 1
    return float(torch.tensor(nats / count).exp())


def engine_of(
    folder: Path, quantization: Quantization, compile_mode: CompileMode, threads: int
) -> Engine:
    """An engine of one slot."""
    build: Callable[[], Engine] = engine_builder(
        EngineOptions(
            folder=folder,
            dtype="auto",
            device="cpu",
            slots=1,
            rows=1,
            width=WIDTH,
            prefill_width=64,
            max_context_tokens=512,
            compile=compile_mode,
            threads=threads,
            quantization=quantization,
            park_bytes=0,
        )
    )
    return build()


def step_ms(engine: Engine) -> float:
    """Median time of a verify step of one full row."""
    times = []
    for index in range(STEPS + 4):
        started = time.perf_counter()
        engine.runner.decide([Row(0, WIDTH * index, tuple(range(1, WIDTH + 1)))], 1)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[4:])


def served_perplexity(engine: Engine, texts: Sequence[Sequence[int]]) -> float:
    """`perplexity` of what the engine's steps say."""
    nats, count = 0.0, 0
    for text in texts:
        for start in range(0, len(text) - 1, WIDTH):
            tokens = tuple(text[start : start + WIDTH][: len(text) - 1 - start])
            logits = engine.runner.logits([Row(0, start, tokens)], 1)[0]
            wanted = torch.tensor(text[start + 1 : start + 1 + len(tokens)])
            nats += functional.cross_entropy(logits, wanted, reduction="sum").item()
            count += len(tokens)
    return float(torch.tensor(nats / count).exp())


def weights_table(folder: Path, texts: Sequence[Sequence[int]], threads: int) -> list[str]:
    """Bytes, perplexity and step times of each quantization: by the library's kernels, and as served."""
    lines = [
        "| weights | bytes | perplexity | eager step, ms | perplexity, recorded | recorded step, ms |",
        "|---|---|---|---|---|---|",
    ]
    for kind in QUANTIZATIONS:
        model = plain_model(folder, kind)
        held, of_library = weight_bytes(model), perplexity(model, texts)
        eager = step_ms(engine_of(folder, kind, "off", threads))
        recorded = engine_of(folder, kind, "auto", threads)
        lines.append(
            f"| {kind} | {held:,} | {of_library:.3f} | {eager:.2f} "
            f"| {served_perplexity(recorded, texts):.3f} | {step_ms(recorded):.2f} |"
        )
    return lines


def agreement_table(target: Path, draft: Path, prompts: torch.Tensor) -> list[str]:
    """How often the draft draws the target's token, by the weights of both."""
    lines = [
        "| target | draft | " + " | ".join(f"temperature {value}" for value in TEMPERATURES) + " |",
        "|---|---|" + "---|" * len(TEMPERATURES),
    ]
    for of_target, of_draft in MIXES:
        models = plain_model(target, of_target), plain_model(draft, of_draft)
        found = [
            measure_agreement(*models, prompts, temperature, NEW_TOKENS, seed=0)
            for temperature in TEMPERATURES
        ]
        chances = " | ".join(f"{entry.chance:.3f}" for entry in found)
        lines.append(f"| {of_target} | {of_draft} | {chances} |")
    return lines


def run_quantized(target: Path, draft: Path, threads: int) -> int:
    """Prints both tables; 0. Raises StartupError."""
    for folder in (target, draft):
        check_model_folder(folder)
    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    texts = [tokenizer.encode(text).ids for text in held_out_prompts()]
    prompts = torch.tensor([text[-PROMPT_TOKENS:] for text in texts if len(text) >= PROMPT_TOKENS])
    for name, folder in (("target", target), ("draft", draft)):
        print(f"{name}\n", *weights_table(folder, texts, threads), "", sep="\n")
    print(*agreement_table(target, draft, prompts), sep="\n", flush=True)
    return 0
