"""Engines of the bundled pair and of a draft that knows nothing, shared by the promise tests."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import torch
from outrider_server.engine.options import EngineOptions
from outrider_server.host.building import engine_builder
from outrider_server.host.engine_host import EngineHost
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two engines share the machine; threads that spin for each other's cores would only slow them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


async def started_host(
    folder: Path,
    *,
    dtype: str,
    width: int,
    compile_mode: str = "off",
    rows: int = 6,
    quantization: str = "none",
    attention: str = "auto",
) -> EngineHost:
    """A host over a model folder."""
    return await EngineHost.started(
        engine_builder(
            EngineOptions(
                folder=folder,
                dtype=dtype,
                device="cpu",
                slots=8,
                rows=rows,
                width=width,
                prefill_width=64,
                max_context_tokens=512,
                compile=compile_mode,
                threads=1,
                quantization=quantization,
                attention=attention,
                park_bytes=0,
            )
        )
    )


def save_untrained_draft(folder: Path) -> Path:
    """Writes the folder of a draft with random weights and the bundled vocabulary."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DRAFT_FOLDER / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def untrained_draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_draft(tmp_path_factory.mktemp("untrained"))


@pytest.fixture
async def drafts(untrained_draft: Path) -> AsyncIterator[dict[str, EngineHost]]:
    """The bundled draft and the untrained one, running; recorded where the machine can."""
    hosts = {
        name: await started_host(folder, dtype="bfloat16", width=2, compile_mode="auto")
        for name, folder in (("bundled", DRAFT_FOLDER), ("untrained", untrained_draft))
    }
    yield hosts
    for host in hosts.values():
        await host.stop()


async def target_host(
    dtype: str, compile_mode: str = "off", quantization: str = "none", attention: str = "auto"
) -> EngineHost:
    """The bundled target."""
    return await started_host(
        TARGET_FOLDER,
        dtype=dtype,
        width=8,
        compile_mode=compile_mode,
        quantization=quantization,
        attention=attention,
    )
