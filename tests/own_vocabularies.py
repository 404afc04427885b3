"""Drafts with a vocabulary of their own, cut out of whole models: rows of some tokens, one for all others."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from models_for_tests import edit_json
from outrider_server.engine.model.known_tokens_file import MAP, TENSOR
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel


def cut_rows(model: PreTrainedModel, token_ids: Sequence[int]) -> PreTrainedModel:
    """Leaves a model the rows of these tokens, ascending, and the mean of all for others, in place."""
    kept = torch.tensor(token_ids)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    wholes = [
        {name: weight.detach().clone() for name, weight in layer.named_parameters(recurse=False)}
        for layer in layers
    ]
    model.resize_token_embeddings(len(token_ids) + 1, mean_resizing=False)
    with torch.no_grad():
        for layer, whole in zip(
            (model.get_input_embeddings(), model.get_output_embeddings()), wholes, strict=True
        ):
            for name, weight in whole.items():
                mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
                getattr(layer, name).copy_(torch.cat((weight[kept], mean)))
    return model


def without_cut(model: PreTrainedModel, token_ids: Sequence[int]) -> PreTrainedModel:
    """Has a whole model read all but these tokens as one, as what `cut_rows` leaves of it does, in place."""
    others = torch.ones(int(model.config.vocab_size), dtype=torch.bool)
    others[list(token_ids)] = False
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    means = [layer.weight.data.float().mean(dim=0).to(layer.weight.dtype) for layer in layers]
    for layer, mean in zip(layers, means, strict=True):
        layer.weight.data[others] = mean
    return model


def write_map(folder: Path, token_ids: Sequence[int], target_size: int) -> Path:
    """Says in a folder which tokens its model knows."""
    save_file({TENSOR: torch.tensor(token_ids, dtype=torch.int32)}, folder / MAP)
    entry = {"target_vocab_size": target_size, "unknown": len(token_ids)}
    edit_json(folder / "config.json", draft_vocab=entry)
    return folder


def save_cut(source: Path, folder: Path, token_ids: Sequence[int]) -> Path:
    """Writes a draft that knows these tokens, cut out of the model of a folder."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    target_size = int(model.config.vocab_size)
    ends = model.config.eos_token_id
    own = token_ids.index(ends) if ends in token_ids else None
    cut_rows(model, token_ids)
    for config in (model.config, model.generation_config):
        config.bos_token_id = config.eos_token_id = own
    model.save_pretrained(folder)
    for path in source.glob("tokenizer*"):
        shutil.copy(path, folder / path.name)
    return write_map(folder, token_ids, target_size)


def most_frequent(tokenizer_file: Path, texts: Iterable[str], count: int) -> list[int]:
    """The ids of so many tokens of a tokenizer that come most often in some texts, ascending."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    found: Counter[int] = Counter(range(tokenizer.get_vocab_size()))
    for text in texts:
        found.update(tokenizer.encode(text).ids)
    return sorted(token for token, _ in found.most_common(count))
