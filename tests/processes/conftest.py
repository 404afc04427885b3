"""The three services of the bundled pair as processes, which tests share and start again if they end them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import outrider
import pytest

from .processes import Service, Services, connected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts processes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.processes)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(tmp_path_factory.mktemp("ledgers"))
    yield services
    services.close()


@pytest.fixture(scope="session")
def target(services: Services) -> Service:
    """Started, not yet ready: target and draft start side by side."""
    return services.target()


@pytest.fixture(scope="session")
def draft(services: Services) -> Service:
    return services.draft()


@pytest.fixture(scope="session")
def session(services: Services, target: Service, draft: Service) -> Service:
    """A session service over both."""
    service = services.session(target.wait_until_ready(), draft.wait_until_ready(), ledger="shared")
    service.wait_until_ready()
    return service


@pytest.fixture
def client(session: Service) -> Iterator[outrider.Client]:
    with connected(session.address) as client:
        yield client
