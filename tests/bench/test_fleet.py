"""Real services, started and asked as the suites do it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import outrider
import pytest
from models_for_tests import save_folder
from outrider_bench.decode import interleave, outrider_systems
from outrider_bench.fleet import (
    Fleet,
    FleetOptions,
    OutriderSystem,
    running_fleet,
    running_session,
)
from outrider_bench.proxy import delaying_proxy
from outrider_bench.results import count_differences
from outrider_bench.tasks import Task

pytestmark = pytest.mark.processes

TASKS = [Task("sampled", (3, 1, 4, 1, 5), 24, 0.7, 7), Task("greedy", (2, 7, 1, 8), 24, 0.0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(FleetOptions(folder, folder, slots=4)) as fleet:
        yield fleet


async def test_every_configuration_gives_the_same_tokens(fleet: Fleet) -> None:
    async with outrider.AsyncClient(fleet.address) as client:
        systems = outrider_systems(client)
        measurements = await interleave(systems, TASKS, lambda text: None)
        assert len(measurements) == len(systems) * len(TASKS)
        assert count_differences(measurements) == 0
        assert [info async for info in client.sessions()] == []
    for entry in measurements:
        assert len(entry.outcome.details["sources"]) == entry.task.tokens
        assert 0 < (entry.outcome.first_seconds or 0) <= entry.outcome.seconds
    assert all(size > 0 for size in fleet.resident_bytes().values())


async def test_a_session_service_behind_a_delay_gives_the_same_tokens(fleet: Fleet) -> None:
    async with (
        delaying_proxy(fleet.draft_address, 5) as proxy,
        running_session(fleet.target_address, proxy) as (_, address),
        outrider.AsyncClient(fleet.address) as near,
        outrider.AsyncClient(address) as far,
    ):
        systems = [OutriderSystem("outrider off", near, "off")]
        systems += [OutriderSystem("outrider auto, 5 ms", far, "auto")]
        assert count_differences(await interleave(systems, TASKS, lambda text: None)) == 0
