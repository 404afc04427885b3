"""What cannot be served is refused at start in one sentence that says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from .architectures import REFUSED, REFUSED_WHEN_RUN, Refused
from .refusing import refusal


@pytest.mark.parametrize("refused", REFUSED, ids=lambda each: each.name)
def test_a_configuration_is_refused_before_any_weight_is_read(
    refused: Refused, tmp_path: Path
) -> None:
    sentence = refusal(refused, tmp_path)
    assert refused.reason in sentence
    assert str(tmp_path) in sentence


@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("refused", REFUSED_WHEN_RUN, ids=lambda each: each.name)
def test_a_layer_that_asks_for_more_is_refused_when_the_engine_starts(
    refused: Refused, mode: str, tmp_path: Path
) -> None:
    assert refused.reason in refusal(refused, tmp_path, mode)
