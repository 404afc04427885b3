"""Folders of tiny models that can be quantized, and texts for them."""

from __future__ import annotations

from pathlib import Path

import torch
from outrider_server.quantization.layers import quantized_layers
from outrider_server.quantization.methods import Subject
from outrider_server.quantization.run import largest_weight
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from tests.models_for_tests import VOCABULARY_SIZE, edit_json, save_folder


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """A random GPT-2, whose linear layers hold their weights transposed and whose head is tied."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=64,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config).eval()


def gpt2_folder(folder: Path) -> Path:
    """The same as a folder."""
    save_folder(folder)
    gpt2().save_pretrained(folder)
    return folder


def llama_folder(folder: Path) -> Path:
    """A random Llama, whose layers have shapes that the CPU's packed kernel does not take."""
    return save_folder(folder)


def plain_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The folder's model with the library's own attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def random_windows(count: int = 3, width: int = 40, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, VOCABULARY_SIZE, (count, width), generator=generator)
    return list(drawn)


def subject(folder: Path, dtype: torch.dtype = torch.float32) -> Subject:
    """A model ready for every method."""
    model = plain_model(folder, dtype)
    layers = quantized_layers(model)
    return Subject(folder, model, layers, random_windows(), largest_weight(layers))


def write_text(path: Path, words: int) -> Path:
    """A text of so many words of the tiny vocabulary, which its tokenizer takes one by one."""
    path.write_text(" ".join(f"w{(7 * word * word) % VOCABULARY_SIZE}" for word in range(words)))
    return path


def split_words(folder: Path) -> None:
    """Makes the folder's tokenizer cut at spaces."""
    edit_json(folder / "tokenizer.json", pre_tokenizer={"type": "WhitespaceSplit"})
