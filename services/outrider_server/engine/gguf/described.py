"""What a GGUF file says of its model, as far as all say it alike: sizes, norms, rotary embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch

from ...core.errors import ModelRefused
from .blocks import PLAIN
from .files import GgufFiles
from .metadata import Metadata
from .weights import GgufWeights

EMBEDDINGS, OUTPUT = "token_embd.weight", "output.weight"
FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
SETTINGS_TENSORS = frozenset({FREQUENCIES, LONG, SHORT})
"""Tensors that are part of the configuration."""
LLAMA_3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""The one scaling whose factors a file holds as a tensor only."""
UNDERSTOOD = frozenset(
    {
        *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"),
        *("attention.head_count", "attention.head_count_kv", "attention.causal"),
        *("attention.key_length", "attention.value_length"),
        *("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"),
        *("rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"),
        *("rope.scaling.original_context_length", "rope.scaling.finetuned"),
    }
)
"""What every architecture may say of itself."""

Config = dict[str, Any]


class Described:
    """A file's model, by what its architectures call alike."""

    def __init__(self, files: GgufFiles) -> None:
        """Raises ModelRefused."""
        self.files = files
        self.says = Metadata(files.path, files.metadata)
        self.hidden = self.says.number("embedding_length")
        self.layers = self.says.number("block_count")
        self.heads = self.says.number("attention.head_count")
        self.key_heads = self.says.number("attention.head_count_kv", self.heads)
        if self.heads < 1 or (
            self.hidden % self.heads and not self.says.has("attention.key_length")
        ):
            self.refuse(f"{self.heads} heads do not divide an embedding of {self.hidden}")
        self.head_dim = self.says.number("attention.key_length", self.hidden // self.heads)
        if self.says.number("attention.value_length", self.head_dim) != self.head_dim:
            self.refuse("its keys and its values are not of one size, which is not served")
        self.rotary = self.says.number("rope.dimension_count", self.head_dim)
        held = {name.split(".")[1] for name in files.tensors if name.startswith("blk.")}
        if len(held) != self.layers:
            self.refuse(
                f"it says that it has {self.layers} blocks, and holds tensors of {len(held)}"
            )

    def refuse(self, why: str) -> NoReturn:
        """Raises ModelRefused."""
        raise ModelRefused(f"{self.files.path} cannot be served: {why}")

    def has(self, tensor: str) -> bool:
        """Whether the file holds a tensor."""
        return tensor in self.files.tensors

    def understand(self, *more: str) -> None:
        """Refuses what the file says of its model beside UNDERSTOOD and these."""
        own = f"{self.says.architecture}."
        said = {name.removeprefix(own) for name in self.files.metadata if name.startswith(own)}
        for name in sorted(said - UNDERSTOOD - set(more)):
            self.refuse(f"it says {own}{name}, which is not understood")
        if not self.says.get(self.says.own("attention.causal"), bool, True):
            self.refuse("its tokens attend to later ones")

    def common(self, kind: str) -> Config:
        """What most architectures call the same."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.says.number("feed_forward_length"),
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "max_position_embeddings": self.says.number("context_length"),
            **self.general(kind),
        }

    def general(self, kind: str) -> Config:
        """What all call the same."""
        embeddings = self.files.tensors.get(EMBEDDINGS)
        if embeddings is None:
            self.refuse(f"it has no tensor {EMBEDDINGS}")
        return {
            "model_type": kind,
            "vocab_size": embeddings.shape[0],
            "tie_word_embeddings": not self.has(OUTPUT),
            "dtype": own_dtype(self.files),
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }

    def rms(self) -> float:
        """What is added to the mean square of a norm's values."""
        return self.says.real("attention.layer_norm_rms_epsilon")

    def norm(self) -> float:
        """What is added to the variance of a norm's values."""
        return self.says.real("attention.layer_norm_epsilon")

    def rope(self, *, partial: bool = False) -> Config:
        """The rotary embedding of all layers. Only some turn a part of a head."""
        if self.rotary != self.head_dim and not partial:
            self.refuse(f"it turns {self.rotary} of a head's {self.head_dim} values")
        base = {"rope_theta": self.says.real("rope.freq_base", 10000.0)}
        if partial:
            base["partial_rotary_factor"] = self.rotary / self.head_dim
        return base | self._scaling()

    def _scaling(self) -> Config:
        kind = self.says.get(self.says.own("rope.scaling.type"), str, "none")
        if self.has(FREQUENCIES):
            return self._llama3()
        if kind == "none":
            return {"rope_type": "default"}
        if kind == "linear":
            return {"rope_type": kind, "factor": self.says.real("rope.scaling.factor")}
        if kind != "yarn":
            self.refuse(f"its rotary embedding is scaled by {kind}")
        return {
            "rope_type": kind,
            "factor": self.says.real("rope.scaling.factor"),
            "original_max_position_embeddings": self.says.number(
                "rope.scaling.original_context_length"
            ),
        }

    def _llama3(self) -> Config:
        factors = self.factors(FREQUENCIES)
        if 2 * len(factors) != self.rotary:
            self.refuse(f"its {FREQUENCIES} has {len(factors)} values for {self.rotary}")
        scaling = LLAMA_3 | {"factor": round(float(factors.max()), 4)}
        theta = self.says.real("rope.freq_base", 10000.0)
        meant = llama3_factors(scaling, theta, self.rotary)
        if not torch.allclose(meant, factors, rtol=1e-4):
            self.refuse(f"its {FREQUENCIES} is not that of a Llama 3")
        return scaling

    def factors(self, name: str) -> torch.Tensor:
        """A small tensor of the configuration: float32."""
        tensor: torch.Tensor = GgufWeights(self.files).tensor(name).float()
        return tensor


def llama3_factors(scaling: Mapping[str, Any], theta: float, rotary: int) -> torch.Tensor:
    """By what each frequency is divided: [D/2] float32."""
    waves = 2 * math.pi * theta ** (torch.arange(0, rotary, 2).double() / rotary)
    before, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = ((before / waves - low) / (high - low)).clamp(0, 1)
    divided: torch.Tensor = 1 / ((1 - smooth) / factor + smooth)
    return divided.float()


def own_dtype(files: GgufFiles) -> str:
    """The dtype of the file's matrices; of quantized ones bfloat16, to which they are widened."""
    kinds = {tensor.kind for tensor in files.tensors.values() if len(tensor.shape) > 1}
    found = {PLAIN[kind] for kind in kinds} if kinds <= PLAIN.keys() else {torch.bfloat16}
    smaller = found - {torch.float32} if len(found) > 1 else found
    dtype = smaller.pop() if len(smaller) == 1 else torch.bfloat16
    return str(dtype).removeprefix("torch.")
