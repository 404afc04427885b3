"""Measures the pair on held-out files: perplexity, bits per byte, chance of agreement.

Run it alone on finished folders with
`python -m outrider_server.models.training.evaluate --models FOLDER`; it prints the
table of the model card.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from ...distilling.agreement import (
    WINDOW_TOKENS,
    agreement_chances,
    greedy_agreement,
    tokens_per_round,
)
from .architecture import MAX_CONTEXT_TOKENS
from .attention import ATTENTION
from .corpus import SourceFile, load_corpus
from .prompts import SMALLEST_TOKENS, Prompt, read_prompts
from .sampling import continue_prompts
from .tokenizer import document_start_id

EVALUATION_NEW_TOKENS = 256
TEMPERATURES = (0.0, 0.7, 1.0)


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts held-out text."""

    per_token: float
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the draft draws the target's token, at one temperature."""

    temperature: float
    chance: float
    positions: int


def load_model(folder: Path) -> LlamaForCausalLM:
    """Load a folder in bf16 for inference."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, local_files_only=True, attn_implementation=ATTENTION
    )
    module: nn.Module = model  # the library's own `eval` has no types
    module.eval()
    return model


@torch.inference_mode()
def measure_perplexity(
    model: LlamaForCausalLM, tokenizer: Tokenizer, files: tuple[SourceFile, ...]
) -> Perplexity:
    """Score every file in windows of the full context that do not overlap."""
    nats, tokens, size_bytes = 0.0, 0, 0
    start = document_start_id(tokenizer)
    for file in files:
        stream = torch.tensor([start, *tokenizer.encode(file.text).ids])
        size_bytes += len(file.text.encode())
        for first in range(0, len(stream) - 1, MAX_CONTEXT_TOKENS):
            window = stream[first : first + MAX_CONTEXT_TOKENS + 1]
            logits = model(input_ids=window[None, :-1], use_cache=False).logits[0].float()
            nats += nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
            tokens += len(window) - 1
    return Perplexity(math.exp(nats / tokens), nats / math.log(2) / size_bytes)


@torch.inference_mode()
def measure_agreement(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    prompts: torch.Tensor,
    temperature: float,
    new_tokens: int,
    seed: int,
) -> Agreement:
    """Let the target continue `prompts`, `[rows, length]`, and average over its tokens."""
    length = prompts.shape[1]
    temperatures = torch.full((len(prompts),), temperature)
    generator = torch.Generator().manual_seed(seed)
    tokens = continue_prompts(target, prompts, temperatures, new_tokens, generator)
    chances = []
    for row in torch.split(tokens, 1):
        target_logits, draft_logits = (
            model(input_ids=row[:, :-1], use_cache=False).logits[0, length - 1 :].float()
            for model in (target, draft)
        )
        if temperature == 0.0:
            chances.append(greedy_agreement(target_logits, draft_logits))
        else:
            scaled = (target_logits / temperature, draft_logits / temperature)
            chances.append(agreement_chances(*scaled))
    flat = torch.cat(chances)
    return Agreement(temperature, flat.mean().item(), flat.numel())


def encode_prompts(tokenizer: Tokenizer, prompts: tuple[Prompt, ...]) -> torch.Tensor:
    """The last `SMALLEST_TOKENS` tokens of each prompt, so that all rows are equally long."""
    encodings = tokenizer.encode_batch([prompt.text for prompt in prompts])
    return torch.tensor([encoding.ids[-SMALLEST_TOKENS:] for encoding in encodings])


def report(models: Path, seed: int, new_tokens: int = EVALUATION_NEW_TOKENS) -> str:
    """Measure the pair in `models` and return the tables of the model card, in Markdown."""
    target, draft = load_model(models / "target"), load_model(models / "draft")
    tokenizer = Tokenizer.from_file(str(models / "target" / "tokenizer.json"))
    files = load_corpus().held_out
    prompts = encode_prompts(tokenizer, read_prompts(models / "prompts.jsonl"))
    lines = ["| model | perplexity per token | bits per byte |", "|---|---|---|"]
    for name, model in (("target", target), ("draft", draft)):
        result = measure_perplexity(model, tokenizer, files)
        lines.append(f"| {name} | {result.per_token:.2f} | {result.bits_per_byte:.3f} |")
    lines += [
        "",
        f"| temperature | chance of agreement | tokens per round, window {WINDOW_TOKENS} "
        "| positions |",
        "|---|---|---|---|",
    ]
    for temperature in TEMPERATURES:
        found = measure_agreement(target, draft, prompts, temperature, new_tokens, seed)
        implied = tokens_per_round(found.chance)
        lines.append(f"| {temperature} | {found.chance:.3f} | {implied:.2f} | {found.positions} |")
    return "\n".join(lines)


def main() -> None:
    """Print the report for the folder given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="holds target/ and draft/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--new-tokens", type=int, default=EVALUATION_NEW_TOKENS, help="continuation of a prompt"
    )
    arguments = parser.parse_args()
    print(report(arguments.models, arguments.seed, arguments.new_tokens))


if __name__ == "__main__":
    main()
