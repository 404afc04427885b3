"""The GGUF file holds the folder's weights, in llama.cpp's order."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from outrider_bench.gguf_file import GgufTypes, gguf_of, interleaved
from outrider_server.models import DRAFT_FOLDER
from safetensors.torch import load_file


def rotated_by_halves(values: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """transformers: value i turns with value i + D/2. values [D], angles [D/2]."""
    first, second = values.chunk(2)
    return torch.cat(
        (
            first * angles.cos() - second * angles.sin(),
            second * angles.cos() + first * angles.sin(),
        )
    )


def rotated_by_neighbours(values: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """llama.cpp's Llama: value 2i turns with value 2i + 1."""
    first, second = values[0::2], values[1::2]
    pairs = (
        first * angles.cos() - second * angles.sin(),
        second * angles.cos() + first * angles.sin(),
    )
    return torch.stack(pairs, dim=-1).flatten()


def test_interleaved_heads_give_the_same_scores() -> None:
    """A score is the product of a turned query with a turned key; both turn by their own position."""
    heads, size, width = 3, 8, 16
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(heads * size, width, generator=generator).double() for _ in range(2))
    hidden = torch.randn(width, generator=generator).double()
    frequencies = 0.5 ** torch.arange(size // 2).double()
    ours, theirs = query @ hidden, interleaved(query, heads) @ hidden
    our_keys, their_keys = key @ hidden, interleaved(key, heads) @ hidden
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        score = rotated_by_halves(ours[part], 5 * frequencies) @ rotated_by_halves(
            our_keys[part], 2 * frequencies
        )
        other = rotated_by_neighbours(theirs[part], 5 * frequencies) @ rotated_by_neighbours(
            their_keys[part], 2 * frequencies
        )
        assert torch.allclose(score, other)


def test_the_file_holds_every_weight_bit_for_bit(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(gguf_of(DRAFT_FOLDER, tmp_path, GgufTypes()))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    source = load_file(DRAFT_FOLDER / "model.safetensors")
    assert len(tensors) == len(source)
    embeddings = torch.from_numpy(tensors["token_embd.weight"].data.copy()).view(torch.bfloat16)
    assert torch.equal(embeddings, source["model.embed_tokens.weight"])
    query = torch.from_numpy(tensors["blk.1.attn_q.weight"].data.copy()).view(torch.bfloat16)
    assert torch.equal(query, interleaved(source["model.layers.1.self_attn.q_proj.weight"], 2))
    norm = torch.from_numpy(tensors["blk.0.ffn_norm.weight"].data.copy())
    assert torch.equal(norm, source["model.layers.0.post_attention_layernorm.weight"].float())


def test_the_file_is_made_once(tmp_path: Path) -> None:
    made = gguf_of(DRAFT_FOLDER, tmp_path, GgufTypes()).stat().st_mtime_ns
    assert gguf_of(DRAFT_FOLDER, tmp_path, GgufTypes()).stat().st_mtime_ns == made


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8.5), ("Q4_0", 4.5)])
def test_layers_alone_are_quantized(tmp_path: Path, kind: str, bits: float) -> None:
    """As Outrider's are. Q8_0 is within half a step of 127, Q4_0 of 8, of a block's largest value."""
    reader = gguf.GGUFReader(gguf_of(DRAFT_FOLDER, tmp_path, GgufTypes(kind, "F16")))
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types.pop("token_embd.weight") == "F16"
    norms = {name for name in types if name.endswith("norm.weight")}
    assert {types[name] for name in norms} == {"F32"}
    assert {types[name] for name in types.keys() - norms} == {kind}
    source = load_file(DRAFT_FOLDER / "model.safetensors")
    weight = source["model.layers.0.mlp.up_proj.weight"].float().numpy()
    (held,) = [tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_up.weight"]
    assert held.data.nbytes * 8 / weight.size == bits
    error = abs(gguf.quants.dequantize(held.data, held.tensor_type) - weight)
    steps = {"Q8_0": 127, "Q4_0": 8}[kind]
    assert error.max() <= 1.01 * abs(weight).max() / steps
