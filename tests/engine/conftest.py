"""One thread for the arithmetic of tiny models: more would only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from outrider_server.engine.kernels import kernels_missing

torch.set_num_threads(1)  # engines are made while test modules are imported


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Building an engine sets the threads of the whole process, torch's and the kernels'."""
    yield
    torch.set_num_threads(1)
    if not kernels_missing():
        torch.ops.outrider.set_threads(1)
