"""A model of the suite: saved to a folder, loaded by the engine as any other, and beside it the library's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from gguf_files import write_model
from outrider_server.engine.engine import Engine
from outrider_server.engine.limits import StepLimits
from outrider_server.engine.model.loading import load_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedModel

from .architectures import FROM_GGUF, SERVED, VOCABULARY, Architecture

LIMITS = StepLimits(slots=6, max_context_tokens=192, width=8, prefill_width=16, row_buckets=(1, 4))


@dataclass(frozen=True, slots=True)
class Setting:
    """One column of the table."""

    dtype: str
    compile_mode: str
    is_gguf: bool = False
    """Whether the engine reads the model from a GGUF file."""

    @property
    def name(self) -> str:
        """As the table names it."""
        name = f"{self.dtype}, {'recorded' if self.compile_mode == 'on' else 'eager'}"
        return f"{name}, from GGUF" if self.is_gguf else name

    @property
    def served(self) -> tuple[Architecture, ...]:
        """What is served so."""
        return FROM_GGUF if self.is_gguf else SERVED


SETTINGS = (
    *(Setting(dtype, mode) for dtype in ("float32", "bfloat16") for mode in ("off", "on")),
    Setting("float32", "on", is_gguf=True),
)


def save_model(architecture: Architecture, folder: Path) -> Path:
    """Writes random weights of the architecture with a tokenizer; biases and norms are random too."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(architecture.make())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """One word a token."""
    words = {f"w{token}": token for token in range(VOCABULARY)}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))


def library_model(architecture: Architecture, folder: Path, dtype: str) -> PreTrainedModel:
    """The library's own, with its plain attention where that is right."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=architecture.reference
    ).eval()


def make_engine(folder: Path, setting: Setting) -> Engine:
    """An audited engine over the folder, or over a GGUF file of its model."""
    source = folder
    if setting.is_gguf:
        source = write_model(AutoModelForCausalLM.from_pretrained(folder), folder / "model.gguf")
    loaded = load_model(source, setting.dtype, torch.device("cpu"))
    return Engine(loaded, LIMITS, setting.compile_mode)


def sample_tokens(seed: int, count: int) -> tuple[int, ...]:
    """Random tokens in which earlier ones come again, so that n-grams find something."""
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.randint(VOCABULARY, (count - count // 3,), generator=generator).tolist()
    return tuple(fresh + fresh[: count // 3])
