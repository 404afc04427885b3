"""Every architecture that is served is recorded, and errs no more than the library's own arithmetic."""

from __future__ import annotations

import pytest
import torch
from conformance.architectures import SERVED, VOCABULARY, Architecture
from models_for_tests import needs_kernels

from .models import Piece, Steps, engine_model, error, library_model, text_of

pytestmark = needs_kernels
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
COUNT = 90
EXPERTS = 1.5
"""Times the library's error with experts: a choice between two that are as good falls either way."""
EXACT = 2e-6
"""Of float32, relative: the roundings of some hundred sums."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", SERVED, ids=lambda architecture: architecture.name)
@torch.no_grad()
def test_a_model_is_recorded_and_errs_no_more_than_the_librarys(
    architecture: Architecture, dtype: torch.dtype
) -> None:
    """And its bits are the same read at once, one by one and by sevens."""
    library, text = library_model(architecture, dtype), text_of(COUNT, VOCABULARY)
    steps = Steps(engine_model(architecture, library))
    together = steps.decide(text, Piece(0, 0, COUNT))
    one_by_one = [steps.decide(text, Piece(1, at, at + 1)) for at in range(COUNT)]
    sevens = range(0, COUNT, 7)
    by_sevens = [steps.decide(text, Piece(2, at, min(COUNT, at + 7))) for at in sevens]
    assert torch.equal(together, torch.cat(one_by_one))
    assert torch.equal(together, torch.cat(by_sevens))
    librarys = library(text[None]).logits[0].float()
    wanted = library.float()(text[None]).logits[0]
    factor = EXPERTS if "expert" in architecture.traits else 1.0
    assert error(together, wanted) <= max(EXACT, factor * error(librarys, wanted))
