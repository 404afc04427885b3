"""What llama.cpp's converter changes of a model's tensors, by architecture: undone when they are read.

Rows are put into another order where llama.cpp turns pairs of neighbours, or wants queries, keys and values
apart; Gemma's norms have one added. Rows can be moved in whatever type they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from .metadata import Metadata

HEADS, KEY_HEADS = "attention.head_count", "attention.head_count_kv"
QUERIES = re.compile(r"blk\.\d+\.attn_q\.(weight|bias)")
KEYS = re.compile(r"blk\.\d+\.attn_k\.(weight|bias)")
JOINED = re.compile(r"blk\.\d+\.attn_qkv\.(weight|bias)")
TURNED = re.compile(r"blk\.\d+\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight")
NORM = "norm.weight"

Order = torch.Tensor
"""[R] int64: which of the file's rows is each of the model's."""


def row_order(metadata: Metadata, name: str, rows: int) -> Order | None:
    """The order of a tensor's rows; None where it is the file's."""
    find = _ORDERS.get(metadata.architecture)
    return None if find is None else find(metadata, name, rows)


def added(metadata: Metadata, name: str) -> float:
    """What the file has added to a tensor's values."""
    return 1.0 if metadata.architecture in ("gemma2", "gemma3") and name.endswith(NORM) else 0.0


def is_turned(metadata: Metadata, name: str) -> bool:
    """Whether the model has a matrix's outputs as its columns."""
    return metadata.architecture == "gpt2" and TURNED.fullmatch(name) is not None


def _of_llama(metadata: Metadata, name: str, rows: int) -> Order | None:
    """Halves of a head that turn together, which the file has side by side."""
    if QUERIES.fullmatch(name):
        heads = metadata.number(HEADS)
    elif KEYS.fullmatch(name):
        heads = metadata.number(KEY_HEADS, metadata.number(HEADS))
    else:
        return None
    return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).flatten()


def _of_bloom(metadata: Metadata, name: str, rows: int) -> Order | None:
    """Query, key and value head by head."""
    if not JOINED.fullmatch(name):
        return None
    return torch.arange(rows).view(3, metadata.number(HEADS), -1).transpose(0, 1).flatten()


def _of_falcon(metadata: Metadata, name: str, rows: int) -> Order | None:
    """The queries of a key head, then its key and its value."""
    if not JOINED.fullmatch(name):
        return None
    heads, key_heads = metadata.number(HEADS), metadata.number(KEY_HEADS)
    size = rows // (heads + 2 * key_heads)
    queries, keys, values = torch.split(
        torch.arange(rows), [heads * size, key_heads * size, key_heads * size]
    )
    parts = (part.view(key_heads, -1, size) for part in (queries, keys, values))
    return torch.cat(tuple(parts), dim=1).flatten()


_ORDERS: Mapping[str, Callable[[Metadata, str, int], Order | None]] = MappingProxyType(
    {"llama": _of_llama, "bloom": _of_bloom, "falcon": _of_falcon}
)
