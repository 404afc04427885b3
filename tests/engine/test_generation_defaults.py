"""What a folder says of drawing, read as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outrider_server.engine.model.generation_defaults import read_generation_defaults

CASES: dict[str, tuple[dict[str, object], dict[str, float]]] = {
    "nothing": ({"eos_token_id": 1, "max_new_tokens": 20}, {}),
    "all": (
        {
            "do_sample": True,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
            "min_p": 0.1,
            "repetition_penalty": 1.05,
        },
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.05},
    ),
    "greedy": ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
    "no numbers": ({"temperature": None, "top_k": "20", "top_p": True, "min_p": float("nan")}, {}),
    "a top-k that no message carries": ({"top_k": 1 << 40}, {"top_k": 2**31 - 1}),
    "one that cannot be": ({"top_k": -(1 << 40), "top_p": 7}, {"top_k": -1, "top_p": 7}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_read_as_it_stands(name: str, tmp_path: Path) -> None:
    content, wanted = CASES[name]
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert read_generation_defaults(tmp_path) == wanted


def test_without_a_file_nothing_is_said(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path) == {}
