"""Telemetry: a value that makes no sense is refused, and a collector that is away holds nothing up."""

from __future__ import annotations

import logging
import threading

import pytest
from outrider_server.core.errors import StartupError
from outrider_server.logs import OnceEach
from outrider_server.rpc import telemetry


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match="telemetry cannot be set up") as refused:
        telemetry.set_up("outrider-test")
    assert len(str(refused.value).splitlines()) == 1


def test_what_does_not_end_in_time_is_left_behind() -> None:
    ended, never = threading.Event(), threading.Event()
    telemetry.end_within(0.01, [never.wait, ended.set])
    assert ended.wait(60)
    never.set()


def test_a_library_says_once_what_it_has_to_say(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("outrider-test-library")
    library.propagate = False
    library.addHandler(OnceEach(logging.getLogger("outrider-test")))
    for number in range(3):
        try:
            raise ValueError(number)
        except ValueError:
            library.getChild("traces").exception("no collector\nat %d", number)
    library.getChild("metrics").warning("nor here")
    library.getChild("other").info("chatter")
    assert caplog.messages == ["no collector at 0", "nor here"]
    assert "Traceback" not in caplog.text
