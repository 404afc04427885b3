"""Writes GGUF files of the library's models as llama.cpp's converter does, for tests to read.

What is undone when a file is read is done here the other way round, and written down on its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, TokenType
from numpy.typing import NDArray
from transformers import PreTrainedModel

ARCHITECTURES = {"gemma3_text": "gemma3"}
"""What files call a model type, where it is another name."""
SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A tokenizer as a file has it. By default one word a token, of the kind "llama"."""

    kind: str = "llama"
    texts: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()
    split: str = "default"
    more: Callable[[GGUFWriter], None] = lambda _: None


def word_tokens(count: int) -> Tokens:
    """So many words, of which the first is the unknown one and the second ends a turn."""
    types = [TokenType.UNKNOWN, TokenType.CONTROL, *[TokenType.NORMAL] * (count - 2)]
    texts = [f"w{number}" for number in range(count)]

    def more(writer: GGUFWriter) -> None:
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(False)

    return Tokens(texts=texts, types=types, scores=[0.0] * count, more=more)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a file is written."""

    layers: str = "F32"
    """The type of the layers' matrices."""
    others: str = "F32"
    """That of embeddings and head."""
    tokens: Tokens | None = None
    """Words where it is None."""
    name: str = "tiny"
    change: Callable[[GGUFWriter], None] = lambda _: None
    """What is written beside."""
    split_bytes: int = 0
    """Into files of about so many bytes; 0 for one."""
    dropped: frozenset[str] = field(default_factory=frozenset)
    """Tensors that are left out."""


def write_model(model: PreTrainedModel, path: Path, form: Form | None = None) -> Path:
    """Writes a model; returns the file to name, which is the first where it is split."""
    form = form or Form()
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = GGUFWriter(path, architecture, split_max_size=form.split_bytes)
    writer.add_name(form.name)
    _SETTINGS[architecture](writer, config)
    write_tokens(writer, form.tokens or word_tokens(int(config.vocab_size)))
    form.change(writer)
    for name, tensor in tensors_of(model, architecture).items():
        if name in form.dropped:
            continue
        kind = (
            "F32" if tensor.ndim == 1 else form.layers if name.startswith("blk.") else form.others
        )
        add_tensor(writer, name, tensor, kind)
    close(writer)
    return path if path.is_file() else min(path.parent.glob(f"{path.stem}-*.gguf"))


def close(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer: GGUFWriter, name: str, tensor: torch.Tensor, kind: str) -> None:
    """A tensor in a type; of those that the package cannot write, any blocks of about that size."""
    of = GGMLQuantizationType[kind]
    values = tensor.detach().float().contiguous().numpy()
    if of is GGMLQuantizationType.BF16:
        packed = tensor.detach().to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    else:
        try:
            packed = gguf.quants.quantize(values, of)
        except NotImplementedError:
            packed = any_blocks(values.shape, of, seed=zlib.crc32(name.encode()))
    writer.add_tensor(name, packed, raw_dtype=of)


def any_blocks(shape: Sequence[int], kind: GGMLQuantizationType, seed: int) -> NDArray[np.uint8]:
    """Blocks [..., bytes] of random integers whose scales are small numbers."""
    each, size = GGML_QUANT_SIZES[kind]
    drawn = np.random.default_rng(seed)
    blocks = drawn.integers(0, 256, (*shape[:-1], shape[-1] // each, size), dtype=np.uint8)
    small = np.frombuffer(np.array([0.001, 0.002], np.float16).tobytes(), np.uint8)
    places = {"Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208], "Q4_K": [0, 2], "Q5_K": [0, 2]}
    for place in places.get(kind.name, [0, 2] if kind.name.endswith("_1") else [0]):
        blocks[..., place : place + 2] = small[:2]
    return blocks.reshape(*shape[:-1], -1)


def write_tokens(writer: GGUFWriter, tokens: Tokens) -> None:
    writer.add_tokenizer_model(tokens.kind)
    writer.add_tokenizer_pre(tokens.split)
    writer.add_token_list(list(tokens.texts))
    writer.add_token_types(list(tokens.types))
    if tokens.scores:
        writer.add_token_scores(list(tokens.scores))
    if tokens.merges:
        writer.add_token_merges(list(tokens.merges))
    tokens.more(writer)


def tensors_of(model: PreTrainedModel, architecture: str) -> dict[str, torch.Tensor]:
    """A model's tensors by llama.cpp's names, in its order."""
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], int(model.config.num_hidden_layers))
    found = {}
    for name, tensor in model.named_parameters():
        stem = name.removeprefix("transformer.") if architecture == "bloom" else name
        called = table.get_name(stem, try_suffixes=SUFFIXES)
        assert called is not None, name
        found[called] = _changed(architecture, called, tensor.detach(), model.config)
    return found


def _changed(architecture: str, name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """As the converter writes it."""
    if architecture in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return tensor.float() + 1
    if architecture == "llama" and ".attn_q." in name:
        return neighbours(tensor, config.num_attention_heads)
    if architecture == "llama" and ".attn_k." in name:
        return neighbours(tensor, config.num_key_value_heads)
    if architecture == "bloom" and ".attn_qkv." in name:
        each = tensor.view(config.n_head, 3, -1, *tensor.shape[1:])
        return torch.cat([each[:, part].flatten(0, 1) for part in range(3)])
    if architecture == "falcon" and ".attn_qkv." in name:
        return _falcon(tensor, config)
    turned = (".attn_qkv.weight", ".attn_output.weight", ".ffn_up.weight", ".ffn_down.weight")
    return tensor.t() if architecture == "gpt2" and name.endswith(turned) else tensor


def neighbours(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows whose rotary pairs lie half a head apart, side by side."""
    halves = tensor.view(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _falcon(tensor: torch.Tensor, config: Any) -> torch.Tensor:
    heads = config.num_attention_heads
    groups = config.num_kv_heads if config.new_decoder_architecture else 1
    each = tensor.view(groups, heads // groups + 2, -1, *tensor.shape[1:])
    parts = (each[:, :-2], each[:, -2:-1], each[:, -1:])
    return torch.cat([part.flatten(0, 2) for part in parts])


def _sizes(writer: GGUFWriter, config: Any, key_heads: int, inner: int) -> None:
    writer.add_context_length(getattr(config, "max_position_embeddings", 0) or 256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(key_heads)


def _gated(writer: GGUFWriter, config: Any) -> None:
    _sizes(writer, config, config.num_key_value_heads, config.intermediate_size)
    parameters = config.rope_parameters
    parameters = parameters.get("full_attention", parameters)
    writer.add_rope_freq_base(parameters["rope_theta"])
    if parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(parameters["factor"])
    if parameters["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])


def _rms(writer: GGUFWriter, config: Any) -> None:
    _gated(writer, config)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _sized_heads(writer: GGUFWriter, config: Any) -> None:
    _rms(writer, config)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def _llama(writer: GGUFWriter, config: Any) -> None:
    _sized_heads(writer, config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    rope = config.rope_parameters
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3(rope, config.head_dim))


def _llama3(rope: Any, size: int) -> NDArray[np.float32]:
    """Factors of frequencies, one after the other."""
    found = []
    before = rope["original_max_position_embeddings"]
    for frequency in 1 / rope["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float32) / size):
        wave = 2 * np.pi / frequency
        if wave < before / rope["high_freq_factor"]:
            found.append(1.0)
        elif wave > before / rope["low_freq_factor"]:
            found.append(rope["factor"])
        else:
            smooth = (before / wave - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, np.float32)


def _gemma2(writer: GGUFWriter, config: Any) -> None:
    _sized_heads(writer, config)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def _gemma3(writer: GGUFWriter, config: Any) -> None:
    _sized_heads(writer, config)
    writer.add_sliding_window(config.sliding_window)


def _phi3(writer: GGUFWriter, config: Any) -> None:
    _rms(writer, config)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_sliding_window(config.sliding_window or 0)
    rope = config.rope_parameters
    if "long_factor" in rope:
        writer.add_rope_scaling_attn_factors(rope["attention_factor"])
        for name in ("long", "short"):
            factors = np.array(rope[f"{name}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{name}.weight", factors)


def _starcoder2(writer: GGUFWriter, config: Any) -> None:
    _gated(writer, config)
    writer.add_layer_norm_eps(config.norm_epsilon)


def _stablelm(writer: GGUFWriter, config: Any) -> None:
    _gated(writer, config)
    part = config.rope_parameters["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(part * config.hidden_size // config.num_attention_heads))
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)


def _falcon_settings(writer: GGUFWriter, config: Any) -> None:
    key_heads = config.num_kv_heads if config.new_decoder_architecture else 1
    _sizes(writer, config, key_heads, 4 * config.hidden_size)
    writer.add_tensor_data_layout("jploski")
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _plain(writer: GGUFWriter, config: Any) -> None:
    _sizes(writer, config, config.num_attention_heads, 4 * config.hidden_size)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


_SETTINGS: dict[str, Callable[[GGUFWriter, Any], None]] = {
    "llama": _llama,
    "qwen2": _rms,
    "qwen3": _sized_heads,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "starcoder2": _starcoder2,
    "stablelm": _stablelm,
    "falcon": _falcon_settings,
    "bloom": _plain,
    "gpt2": _plain,
}
