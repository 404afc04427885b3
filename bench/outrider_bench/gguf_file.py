"""A GGUF file of a Llama folder: its weights under llama.cpp's names and in its order.

The matrices of the layers may be quantized, as Outrider quantizes the same ones; embeddings and head never.
Prompts are sent as token ids, so the tokenizer only has to be complete, not equal in how it splits text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.constants import TokenType
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors.torch import load_file

from .model_cache import end_tokens, kept, read_config
from .shape import Shape

_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OTHER_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
FILE = "model.gguf"


@dataclass(frozen=True, slots=True)
class GgufTypes:
    """The types of a file's tensors, by GGUF's names. Norms are float32."""

    layers: str = "BF16"
    """Of the matrices in layers: BF16, F16, Q8_0 or Q4_0."""
    others: str = "BF16"
    """Of embeddings and head: BF16, or F16 for a reader that knows no BF16."""


def gguf_of(folder: Path, cache: Path, types: GgufTypes) -> Path:
    """The GGUF file of a folder, made once for its types."""
    made = kept(
        cache,
        f"{folder.resolve().name}-gguf",
        folder,
        {"gguf": asdict(types)},
        lambda out: write_gguf(folder, out / FILE, types),
    )
    return made / FILE


def write_gguf(folder: Path, path: Path, types: GgufTypes) -> None:
    """Writes the model of `folder` to `path`. Raises StartupError for what is no plain Llama."""
    shape = Shape.of(folder)
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA])
    _add_settings(writer, folder, shape)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{types.layers}"])
    _add_tokenizer(writer, folder, shape)
    for name, weight in sorted(_tensors(folder, shape)):
        if weight.ndim == 1:  # llama.cpp multiplies by norms in float32
            writer.add_tensor(name, weight.float().numpy())
        else:
            kind = GGMLQuantizationType[types.layers if name.startswith("blk.") else types.others]
            writer.add_tensor(name, _packed(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _packed(weight: torch.Tensor, kind: GGMLQuantizationType) -> NDArray[Any]:
    """A matrix [rows, columns] as a file of that type holds it."""
    if kind is GGMLQuantizationType.BF16:
        return weight.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    return quantize(weight.float().numpy(), kind)


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """[heads * D, H] with its rotary pairs side by side instead of half a head apart.

    transformers rotates value i with value i + D/2, llama.cpp's Llama value 2i with value 2i + 1.
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _add_settings(writer: GGUFWriter, folder: Path, shape: Shape) -> None:
    config = read_config(folder)
    rope = config.get("rope_parameters") or {}
    writer.add_name(folder.name)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))


def _add_tokenizer(writer: GGUFWriter, folder: Path, shape: Shape) -> None:
    config = read_config(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    names = {index: name for name, index in tokenizer["model"]["vocab"].items()}
    special = {entry["id"]: entry["content"] for entry in tokenizer["added_tokens"]}
    names |= special
    tokens = [names.get(index, f"[unused {index}]") for index in range(shape.vocabulary)]
    kinds = [
        TokenType.CONTROL
        if index in special
        else TokenType.NORMAL
        if index in names
        else TokenType.UNUSED
        for index in range(shape.vocabulary)
    ]
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    )
    for end in end_tokens(folder)[:1]:
        writer.add_eos_token_id(end)
    if config.get("bos_token_id") is not None:
        writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)


def _tensors(folder: Path, shape: Shape) -> Iterator[tuple[str, torch.Tensor]]:
    for file in folder.glob("*.safetensors"):
        for name, weight in load_file(file).items():
            stem = name.removesuffix(".weight")
            if stem in _OTHER_NAMES:
                if not (stem == "lm_head" and shape.tied):
                    yield f"{_OTHER_NAMES[stem]}.weight", weight
                continue
            index, _, part = stem.removeprefix("model.layers.").partition(".")
            if part == "self_attn.q_proj":
                weight = interleaved(weight, shape.heads)
            elif part == "self_attn.k_proj":
                weight = interleaved(weight, shape.key_value_heads)
            yield f"blk.{index}.{_LAYER_NAMES[part]}.weight", weight
