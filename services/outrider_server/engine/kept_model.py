"""A model as an earlier start recorded it: what there is to know of it, and its forward pass over its files.

A start that finds one needs nothing of the library. What is kept holds no large weights: these are packed
from the checkpoint at every start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..core.progress import Progress
from .kernels import kernels_missing
from .lengths import LengthRule
from .machine import machine_facts
from .model.checkpoint import digest_files
from .model.facts import CacheSizes, ModelFacts
from .model.opening import open_checkpoint
from .model.vocabulary import Vocabulary
from .options import EngineOptions
from .program.stored import packed_pass
from .program.weights import Recorded
from .program.written import Written, dtype_named, read_pass
from .records import Records

RECORD = "model"
"""The kind of record that a model is kept as."""
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptModel(ModelFacts):
    """A model without the library's own: its forward pass is recorded, and its weights are packed."""

    recorded: Recorded


def model_records(records: Records, options: EngineOptions, device: torch.device) -> Records:
    """The records of starts of these model files with options that make the same of them, on this machine.

    Raises ModelRefused for what cannot be loaded.
    """
    if records.folder is None:
        return records
    return records.of(
        **machine_facts(device, os.environ),
        files=digest_files(open_checkpoint(options.folder)),
        dtype=options.dtype,
        quantization=options.quantization,
        max_context_tokens=options.max_context_tokens,
        compile=options.compile,
        attention=options.attention,
        ranks=options.tensor_parallel,
    )


def keep_model(records: Records, model: ModelFacts, written: Written) -> None:
    """Leaves a model that was recorded for later starts."""
    vocabulary, sizes, rule = model.vocabulary, model.cache_sizes, model.length_rule
    facts = {
        "architecture": model.architecture,
        "model_fingerprint": model.model_fingerprint,
        "end_token_ids": model.end_token_ids,
        "max_positions": model.max_positions,
        "most_positions": model.most_positions,
        "parameter_count": model.parameter_count,
        "quantization": model.quantization,
    }
    parts = {
        "vocabulary": [vocabulary.fingerprint, vocabulary.tokenizer_size, vocabulary.output_rows],
        "cache_sizes": [sizes.layers, sizes.key_heads, sizes.head_dim],
        "length_rule": [rule.border, rule.reread, rule.grows],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    records.keep(RECORD, {"facts": facts, **parts, "pass": written})


def recall_model(records: Records, name: str, source: Path, tell: Progress) -> KeptModel | None:
    """The model of these files as an earlier start kept it, its weights packed; None where none did."""
    outcome = records.recall(RECORD)
    if outcome is None or kernels_missing():
        return None
    try:
        stored, facts = read_pass(outcome["pass"]), _facts(outcome)
    except (TypeError, KeyError, ValueError, IndexError, SafetensorError, RuntimeError):
        return None
    checkpoint = open_checkpoint(source)
    vocabulary = facts["vocabulary"]
    known = checkpoint.known_tokens(vocabulary.tokenizer_size, vocabulary.output_rows)
    return KeptModel(
        **facts | {"vocabulary": replace(vocabulary, known=known)},
        name=name,
        device=CPU,
        tokenizer=checkpoint.tokenizer(),
        generation_defaults=checkpoint.generation_defaults(),
        recorded=packed_pass(stored, checkpoint.open_weights(), tell),
    )


def _facts(outcome: Any) -> dict[str, Any]:
    """What was kept of a model, by the names of `ModelFacts`."""
    return {
        **outcome["facts"],
        "end_token_ids": tuple(outcome["facts"]["end_token_ids"]),
        "vocabulary": Vocabulary(*outcome["vocabulary"]),
        "cache_sizes": CacheSizes(*outcome["cache_sizes"]),
        "length_rule": LengthRule(*outcome["length_rule"]),
        "dtype": dtype_named(outcome["dtype"]),
    }
