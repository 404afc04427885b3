"""Tiny random models: in memory for the engine, as folders for loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from outrider_server.core.description import TokenizerFiles
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.attention.attention import NAME
from outrider_server.engine.engine import Engine
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.limits import StepLimits
from outrider_server.engine.model.loading import LoadedModel, facts_of
from outrider_server.engine.model.vocabulary import Vocabulary
from outrider_server.engine.step import StepRunner
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

VOCABULARY_SIZE = 61

needs_kernels = pytest.mark.skipif(
    bool(kernels_missing()), reason=f"the engine's own kernels: {kernels_missing()}"
)
"""For tests of what runs on the engine's own kernels alone."""


def llama_config(vocabulary_size: int = VOCABULARY_SIZE, **changes: object) -> LlamaConfig:
    """A Llama of two layers with grouped heads."""
    settings: dict[str, object] = {
        "vocab_size": vocabulary_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(**(settings | changes))


def tiny_llama(
    seed: int = 0, vocabulary_size: int = VOCABULARY_SIZE, **changes: object
) -> LlamaForCausalLM:
    """A random fp32 Llama with the library's own attention."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config(vocabulary_size, **changes)).eval()


def packable_llama(
    seed: int = 0, vocabulary_size: int = VOCABULARY_SIZE, **changes: object
) -> LlamaForCausalLM:
    """A random bf16 Llama that the engine's own kernels can serve."""
    torch.manual_seed(seed)
    heads = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = llama_config(vocabulary_size, **(heads | changes))
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def loaded(model: PreTrainedModel, tokenizer_size: int | None = None) -> LoadedModel:
    """A model as loading would return it, attending over the slot cache from now on."""
    model.set_attn_implementation(NAME)
    rows = int(model.config.vocab_size)
    return LoadedModel(
        model=model,
        name="tiny",
        architecture=type(model).__name__,
        model_fingerprint="model",
        vocabulary=Vocabulary("vocabulary", tokenizer_size or rows, rows),
        end_token_ids=(),
        max_positions=256,
        tokenizer=TokenizerFiles(b"{}", "", "", ""),
        generation_defaults={},
        **facts_of(model),
    )


def tiny_limits(
    slots: int = 4,
    max_context_tokens: int = 96,
    width: int = 8,
    prefill_width: int = 16,
    row_buckets: tuple[int, ...] = (1, 4),
) -> StepLimits:
    """The static shapes of a tiny engine."""
    return StepLimits(slots, max_context_tokens, width, prefill_width, row_buckets)


def tiny_runner(
    model: PreTrainedModel | None = None, limits: StepLimits | None = None
) -> StepRunner:
    """A runner of eager steps, whose cache is its own."""
    return StepRunner(loaded(model or tiny_llama()), limits or tiny_limits(), "off")


def packed_runner(
    model: PreTrainedModel | None = None, limits: StepLimits | None = None
) -> StepRunner:
    """A runner of eager steps whose rows are packed: its model is too small to be compiled."""
    return StepRunner(loaded(model or packable_llama()), limits or tiny_limits(), "auto")


def packed_engine(model: PreTrainedModel | None = None, limits: StepLimits | None = None) -> Engine:
    """An audited engine of eager steps whose rows are packed."""
    return Engine(loaded(model or packable_llama()), limits or tiny_limits(), compile_mode="auto")


def tiny_engine(model: PreTrainedModel | None = None, limits: StepLimits | None = None) -> Engine:
    """An audited engine of eager steps."""
    return Engine(loaded(model or tiny_llama()), limits or tiny_limits(), compile_mode="off")


def park_all(engine: Engine) -> None:
    """Gives every slot to another session; those that had one are parked, as far as there is memory."""
    for number in range(engine.limits.slots):
        opened = engine.open(f"other {number}", 1, 0, Draw(SamplingParams(temperature=0.0), 0, 0))
        engine.table.close(opened.slot, opened.opening)


def save_folder(folder: Path, vocabulary_size: int = VOCABULARY_SIZE) -> Path:
    """Writes a folder that can be served: weights, configuration, tokenizer."""
    tiny_llama(vocabulary_size=vocabulary_size).save_pretrained(folder)
    save_tokenizer(folder, vocabulary_size)
    return folder


def save_tokenizer(folder: Path, vocabulary_size: int) -> None:
    """Writes a tokenizer of so many words beside a model."""
    words = {f"w{token}": token for token in range(vocabulary_size)}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    edit_json(folder / "tokenizer_config.json", eos_token="w1")


def edit_json(path: Path, **changes: object) -> None:
    """Changes keys of a JSON object in a file, which need not be there yet."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | changes))
