"""The peer OpenVINO GenAI: what it asks of the library, and what it tells of its answers.

The library is a stand-in with the names that the peer uses. `test_real_peers.py` has the real one.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from outrider_bench.openvino_peer import KEPT, OpenVinoPeer

QUESTION: dict[str, Any] = {
    "prompt": [3, 1, 4],
    "tokens": 5,
    "temperature": 0.0,
    "seed": 7,
    "chat": False,
    "backend": "PA",
    "guesses": 3,
}


class Pipeline:
    """Answers with as many tokens as it is asked for, and keeps what it was told."""

    def __init__(self, folder: str, device: str, **options: Any) -> None:
        self.folder = folder
        self.options = options
        if options.get("enable_save_ov_model"):
            (Path(folder).parent / KEPT).write_text("")

    def get_generation_config(self) -> SimpleNamespace:
        return SimpleNamespace()

    def generate(self, inputs: Any, config: SimpleNamespace) -> SimpleNamespace:
        self.config = config
        metrics = SimpleNamespace(get_ttft=lambda: SimpleNamespace(mean=20.0))
        counted = SimpleNamespace(get_num_accepted_tokens=lambda: 2)
        tokens = [list(range(config.max_new_tokens))]
        return SimpleNamespace(tokens=tokens, perf_metrics=metrics, extended_perf_metrics=counted)


class Peer(OpenVinoPeer):
    """The peer without the library's tensors."""

    def _inputs(self, prompt: list[int]) -> Any:
        return prompt


LIBRARY = SimpleNamespace(
    LLMPipeline=Pipeline,
    SchedulerConfig=SimpleNamespace,
    draft_model=lambda folder, device, **options: ("draft", folder),
)


@pytest.fixture
def peer(tmp_path: Path) -> OpenVinoPeer:
    folders = tmp_path / "target", tmp_path / "draft"
    for folder in folders:
        folder.mkdir()
    return Peer(LIBRARY, folders[0] / "m.gguf", folders[1] / "m.gguf", [2, 5], {"HINT": "f32"})


def test_models_are_converted_beside_their_files(peer: OpenVinoPeer, tmp_path: Path) -> None:
    assert all((tmp_path / name / KEPT).is_file() for name in ("target", "draft"))
    assert peer.pipeline("plain", "PA").folder == str(tmp_path / "target")


def test_nothing_is_kept_of_earlier_prompts(peer: OpenVinoPeer) -> None:
    for mode in ("plain", "draft", "lookup"):
        options = peer.pipeline(mode, "PA").options
        assert options["scheduler_config"].enable_prefix_caching is False
        assert options["HINT"] == "f32"
    assert "scheduler_config" not in peer.pipeline("plain", "SDPA").options


def test_each_mode_is_a_pipeline_of_its_own(peer: OpenVinoPeer, tmp_path: Path) -> None:
    draft = peer.pipeline("draft", "PA")
    assert draft.options["draft_model"] == ("draft", str(tmp_path / "draft"))
    assert peer.pipeline("lookup", "PA").options["prompt_lookup"] is True
    assert peer.pipeline("draft", "PA") is draft


@pytest.mark.parametrize(("mode", "accepted"), [("plain", 0), ("draft", 2), ("lookup", None)])
def test_what_was_accepted_is_told_where_the_library_counts(
    peer: OpenVinoPeer, mode: str, accepted: int | None
) -> None:
    answer = peer.answer(QUESTION | {"mode": mode})
    assert answer["accepted"] == accepted
    assert answer["tokens"] == [0, 1, 2, 3, 4]
    assert answer["first_seconds"] == 0.02
    config = peer.pipeline(mode, "PA").config
    assert getattr(config, "num_assistant_tokens", None) == (None if mode == "plain" else 3)


def test_end_tokens_count_in_chats_alone(peer: OpenVinoPeer) -> None:
    for chat in (False, True):
        peer.answer(QUESTION | {"mode": "plain", "chat": chat})
        config = peer.pipeline("plain", "PA").config
        assert config.ignore_eos is not chat
        assert config.stop_token_ids == {2, 5}


def test_draws_are_from_all_tokens_by_the_seed(peer: OpenVinoPeer) -> None:
    peer.answer(QUESTION | {"mode": "plain", "temperature": 0.7})
    config = peer.pipeline("plain", "PA").config
    assert config.do_sample
    assert (config.temperature, config.top_p, config.top_k, config.rng_seed) == (0.7, 1.0, 0, 7)
