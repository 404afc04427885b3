"""The text: where it comes from, and how it is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from outrider_server.core.errors import StartupError
from outrider_server.models import TARGET_FOLDER
from outrider_server.models.training.corpus import is_held_out
from outrider_server.quantization.settings import QuantizeSettings
from outrider_server.quantization.text import HeldOutText, cut_windows, read_text


def text_of(*lengths: int) -> HeldOutText:
    ends = torch.tensor(lengths).cumsum(0).tolist()
    parts = [torch.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    return HeldOutText("a test", tuple(parts))


def test_windows_do_not_overlap_and_never_span_files() -> None:
    windows = cut_windows(text_of(25, 9), width=10, tokens=100)
    assert [window.tolist() for window in windows] == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 25)),
        list(range(25, 34)),
    ]


def test_a_window_of_one_token_is_left_out() -> None:
    assert [len(window) for window in cut_windows(text_of(11, 1), 10, 100)] == [10]


def test_fewer_tokens_are_spread_over_the_whole_text() -> None:
    windows = cut_windows(text_of(1000), width=10, tokens=50)
    assert [int(window[0]) for window in windows] == [0, 200, 400, 600, 800]


@pytest.mark.parametrize("tokens", [10, 31, 77, 200, 10_000])
def test_the_windows_hold_at_most_the_tokens_and_nearly_as_many(tokens: int) -> None:
    text = text_of(35, 100, 3, 64, 90)
    total = sum(len(window) for window in cut_windows(text, 10, tokens))
    assert total <= tokens
    assert total >= min(tokens, 292) - 20


def test_there_is_a_window_even_where_it_is_longer_than_the_tokens() -> None:
    assert [len(window) for window in cut_windows(text_of(900), 600, 256)] == [600]


def test_the_bundled_model_reads_files_that_it_never_trained_on(tmp_path: Path) -> None:
    text = read_text(QuantizeSettings(model=TARGET_FOLDER, output=tmp_path))
    assert "never trained on" in text.source
    assert is_held_out("base64.py") or len(text.parts) > 0
    assert sum(map(len, text.parts)) > 10_000


def test_the_users_text_becomes_the_models_tokens(tmp_path: Path) -> None:
    path = tmp_path / "text.py"
    path.write_text("import os\n" * 200)
    settings = QuantizeSettings(model=TARGET_FOLDER, output=tmp_path, text=path)
    text = read_text(settings)
    assert len(text.parts) == 1
    assert text.source == str(path)
    path.write_text("import os\n" * 3)
    with pytest.raises(StartupError, match=r"has \d+ tokens; at least 256 are needed"):
        read_text(settings)
