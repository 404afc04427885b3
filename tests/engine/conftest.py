"""One thread for the arithmetic of tiny models: more would only wait for each other. And the kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.kernels.library import kernel_library

from .kernel_levels import OTHERS, UNITS, Operators, opened

torch.set_num_threads(1)  # engines are made while test modules are imported


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Building an engine sets the threads of the whole process, torch's and the kernels'."""
    yield
    torch.set_num_threads(1)
    if not kernels_missing():
        kernel_library().set_threads(1)


@pytest.fixture(scope="module", params=[*UNITS, *OTHERS])
def operators(request: pytest.FixtureRequest) -> Iterator[Operators]:
    """The kernels on each unit and at each level that can run here: all that is said of them holds on any."""
    found = opened(request.param)
    yield found
    found.close()
