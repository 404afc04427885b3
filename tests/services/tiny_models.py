"""Tiny random Llamas on the bundled tokenizer, saved as complete local folders in a moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from models_for_tests import llama_config
from outrider_server.models import TARGET_FOLDER
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaForCausalLM

VOCABULARY_SIZE = 4096
END_TOKEN = 0
CONTEXT_TOKENS = 768
DRAFT_NOISE = 0.02
"""Agrees with the target often, and often not."""

Change = Callable[[LlamaForCausalLM], None]


def save_model(
    folder: Path,
    *,
    seed: int = 1,
    change: Change | None = None,
    vocabulary_size: int = VOCABULARY_SIZE,
) -> Path:
    """A random model, the same for the same seed; `change` is applied before it is saved."""
    torch.manual_seed(seed)
    config = llama_config(
        vocabulary_size,
        hidden_size=64,
        intermediate_size=128,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=END_TOKEN,
        eos_token_id=END_TOKEN,
    )
    model = LlamaForCausalLM(config).eval()
    if change is not None:
        with torch.no_grad():
            change(model)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TARGET_FOLDER / name, folder / name)
    return folder


def blur(model: LlamaForCausalLM) -> None:
    """Moves every weight a little: a draft that agrees with the unmoved model often."""
    torch.manual_seed(2)
    for weights in model.parameters():
        weights.add_(torch.randn_like(weights) * weights.std() * DRAFT_NOISE)


def spoil(model: LlamaForCausalLM) -> None:
    """Makes every logit NaN."""
    model.lm_head.weight.fill_(float("nan"))


def widen(rows: int) -> Change:
    """Gives a model more rows than the tokenizer has ids. They would win every draw."""

    def change(model: LlamaForCausalLM) -> None:
        model.resize_token_embeddings(rows, mean_resizing=False)
        weights = model.lm_head.weight
        weights[VOCABULARY_SIZE:] = 30 * weights[: rows - VOCABULARY_SIZE]

    return change


def rewrite_tokenizer(folder: Path) -> Path:
    """The same tokenizer in other words: other white space, a saved truncation, another end of texts."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(16)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    path.write_text(tokenizer.to_str(pretty=True))
    return folder


def rename_a_token(folder: Path) -> Path:
    """Gives the tokenizer of a folder another vocabulary of the same size."""
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text())
    vocabulary = state["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last + "z"] = vocabulary.pop(last)
    state["model"]["merges"] = state["model"]["merges"][:-1]
    path.write_text(json.dumps(state))
    return folder


def train_another_tokenizer(folder: Path) -> Path:
    """Gives a folder a byte-level tokenizer of the same size, trained on another text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (path.read_text() for path in sorted(Path(json.__file__).parent.rglob("*.py")))
    stems = (f"{left}{right}ing" for left in range(90) for right in range(90))
    tokenizer.train_from_iterator([*texts, *stems], trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY_SIZE
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
