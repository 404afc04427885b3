"""What all tests may use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import outrider  # noqa: F401  # before anything that imports gRPC, whose log it keeps off the terminal
import pgbouncer as pgbouncer_program
import pytest
from commands_for_tests import run_command as run_command
from postgres_server import PostgresServer, programs, running_server

LEFT_OUT = pytest.StashKey[int]()
LONGEST = (
    "promise/test_promise.py",
    "conformance/test_conformance.py",
    "chaos/",
    "processes/",
    "test_demo.py",
    "test_packaging.py",
    "engine/test_slot_attention.py",
)
"""Run first: of two processes none shall be left alone with one of them at the end."""


def pytest_configure() -> None:
    """Signals do what they do in a terminal, also where the tests run in the background or by `nohup`. No
    property is judged by how fast the machine is."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> None:
    """For tests that need the program."""


def place_in_run(item: pytest.Item) -> int:
    """The longest files come first; those of a place stay in their order."""
    file = item.nodeid.removeprefix("tests/")
    places = (place for place, name in enumerate(LONGEST) if file.startswith(name))
    return next(places, len(LONGEST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the longest first, and leaves out what needs a PostgreSQL server, or a pgbouncer, where none is
    installed. Skipped tests would take a line of the report each."""
    missing = set[str]()
    if programs() is None:
        missing.add("postgres")
    if pgbouncer_program.program() is None:
        missing.add("pgbouncer")
    left_out = [item for item in items if missing & set(getattr(item, "fixturenames", ()))]
    items[:] = sorted((item for item in items if item not in left_out), key=place_in_run)
    config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = len(left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist: tells the one that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hears it. All processes collect the same tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"skipped: {left_out} tests of the PostgreSQL ledger (its server, or pgbouncer, is not installed)"
        )
