"""Engines for the whole run, and the three services for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from outrider_server.host.engine_host import EngineHost
from outrider_server.session.peers import draft_link

from . import tiny_models
from .harness import SessionService, Stack, running_engine


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def target_folder(models: Path) -> Path:
    return tiny_models.save_model(models / "target")


@pytest.fixture(scope="session")
def draft_folder(models: Path) -> Path:
    return tiny_models.save_model(models / "draft", change=tiny_models.blur)


@pytest.fixture(scope="session")
def target(target_folder: Path) -> Iterator[EngineHost]:
    with running_engine(target_folder, "target") as host:
        yield host


@pytest.fixture(scope="session")
def twin(target_folder: Path) -> Iterator[EngineHost]:
    """The same model as `target`, with a cache of its own."""
    with running_engine(target_folder, "target", slots=2, rows=2) as host:
        yield host


@pytest.fixture(scope="session")
def draft(draft_folder: Path) -> Iterator[EngineHost]:
    with running_engine(draft_folder, "draft") as host:
        yield host


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft is waited for, however slow the machine is."""
    monkeypatch.setattr(draft_link, "PATIENCE_MS", 60_000)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    stack = Stack(tmp_path)
    yield stack
    await stack.close()


@pytest.fixture
async def service(stack: Stack, target: EngineHost, draft: EngineHost) -> SessionService:
    """All three services, up."""
    await stack.start_target(target)
    await stack.start_draft(draft)
    return await stack.start_session()
