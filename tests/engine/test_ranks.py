"""Two ranks over gloo: every architecture that is served so, and the mirror of rank 0's steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models_for_tests import llama_config, save_folder
from outrider_server.engine.ranks.sharing import SERVED
from torch.distributed import TCPStore

GATED = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
SLIDING = GATED | {"sliding_window": 24}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_experts": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("Gemma", GATED),
    "gemma2": ("Gemma2", SLIDING | {"attn_logit_softcapping": 2.0}),
    "gemma3_text": (
        "Gemma3Text",
        SLIDING | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gpt_neox": ("GPTNeoX", {"num_key_value_heads": 4}),
    "llama": ("Llama", GATED),
    "mistral": ("Mistral", SLIDING),
    "mixtral": ("Mixtral", GATED | {"num_local_experts": 4, "sliding_window": None}),
    "olmo": ("Olmo", {"num_key_value_heads": 4}),
    "olmo2": ("Olmo2", {"num_key_value_heads": 1}),
    "phi": ("Phi", {"num_key_value_heads": 4}),
    "phi3": ("Phi3", {"num_key_value_heads": 1}),
    "qwen2": ("Qwen2", GATED | {"tie_word_embeddings": True}),
    "qwen2_moe": ("Qwen2Moe", GATED | EXPERTS | {"shared_expert_intermediate_size": 48}),
    "qwen3": ("Qwen3", GATED),
    "starcoder2": ("Starcoder2", SLIDING),
}
SHARED = {"hidden_size": 64, "initializer_range": 0.15}
JOIN_SECONDS = 500


def save(folder: Path, kind: str, changes: dict[str, Any]) -> None:
    """A random model of the kind, small enough for one rank of two."""
    save_folder(folder)
    settings = llama_config(**SHARED).to_dict() | changes
    for name in (
        "model_type",
        "rope_parameters",
        "architectures",
        "transformers_version",
        "head_dim",
    ):
        if name not in changes:
            settings.pop(name, None)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # zeros would hide a bias that is added by every rank
            torch.nn.init.normal_(weight)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks found, as `two_ranks.py` says."""
    models = tmp_path_factory.mktemp("models")
    for name, (kind, changes) in MODELS.items():
        save(models / name, kind, changes)
    save(models / "wide-llama", "Llama", {"num_key_value_heads": 4})
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launched = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(models)]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outcomes = [process.communicate(timeout=JOIN_SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outcomes
    found: dict[str, Any] = json.loads(outcomes[0][0])
    found["left"] += [json.loads(outcomes[1][0])["left"]]
    return found


def test_every_architecture_that_ranks_may_share_is_compared() -> None:
    assert MODELS.keys() == SERVED


@pytest.mark.parametrize("name", sorted(SERVED))
def test_the_logits_of_two_ranks_are_those_of_the_library_on_one(
    report: dict[str, Any], name: str
) -> None:
    assert report["differences"][name] <= 1e-4


def test_a_mirrored_engine_decides_what_one_process_decides(report: dict[str, Any]) -> None:
    """Whatever the draw: greedy, sampled, filtered, penalized and biased; before and after a wipe."""
    assert report["shared"] == report["alone"]
    assert len({tuple(tokens) for tokens in report["alone"].values()}) == 3


def test_a_wiped_slot_is_wiped_on_every_rank(report: dict[str, Any]) -> None:
    """Rank 0, a process alone, rank 1."""
    assert report["left"] == [0.0, 0.0, 0.0]


def test_shapes_are_audited_through_every_rank(report: dict[str, Any]) -> None:
    assert report["interchangeable"]


def test_a_shared_model_says_so_and_runs_eagerly_on_torchs_kernels(report: dict[str, Any]) -> None:
    assert report["notes"] == [
        2,
        "a model that ranks share runs eagerly",
        "the kernels take whole models, not a rank's share",
    ]


def test_a_rank_holds_its_share_of_the_cache(report: dict[str, Any]) -> None:
    share, whole = report["cache"]
    assert share * 2 == whole
