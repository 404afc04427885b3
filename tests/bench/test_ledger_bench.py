"""The benchmark of ledgers counts what it says it counts."""

from contextlib import aclosing
from pathlib import Path

from outrider_bench import ledger as bench
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger


async def test_appends_are_of_one_round_each_in_as_many_sessions(tmp_path: Path) -> None:
    async with aclosing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        found = await bench.measure_appends(ledger, 3, 4)
        lengths = [each.length for each in (await ledger.list_sessions("", 10)).sessions]
    assert lengths == [len(bench.PROMPT) + 4 * (bench.WARM_UP + 4)] * 3
    assert found.sessions == 3
    assert 0 < found.p50_ms <= found.p99_ms


async def test_idle_sessions_are_as_many_as_asked_and_the_first_goes_on(tmp_path: Path) -> None:
    async with aclosing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        found = await bench.measure_idle(ledger, 21)
        sessions = (await ledger.list_sessions("", 100)).sessions
    assert found.sessions == len(sessions) == 21
    assert sorted(each.turn_count for each in sessions) == [1] * 20 + [2]
