"""What OpenTelemetry sees of a turn, in a process that has set it up, and that nothing is seen without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import outrider
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from outrider_server.host.engine_host import EngineHost
from outrider_server.rpc import telemetry
from outrider_server.session.peers import targets

from . import fake_drafts
from .harness import SessionService, Stack, generate, running_engine, taken_slots, until, until_idle
from .reference import LONG_PROMPT

TRACE_ID, CALLER_SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE_ID}-{CALLER_SPAN_ID}-01"}
SECRET = "the prompt that nobody records"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


@pytest.fixture
async def traced(spans: InMemorySpanExporter, stack: Stack, target, draft) -> SessionService:
    await stack.start_target(target)
    await stack.start_draft(draft)
    return await stack.start_session()


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    yield reader
    provider.shutdown()


@pytest.fixture
def metered(meter: InMemoryMetricReader, target_folder: Path) -> Iterator[EngineHost]:
    with running_engine(target_folder, "target", slots=2, rows=2) as host:
        yield host


def by_name(spans: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    """The finished spans."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def measured(reader: InMemoryMetricReader) -> dict[str, float]:
    """The sum of every counter by name."""
    return {
        metric.name: sum(point.value for point in metric.data.data_points)
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name.startswith("outrider.")
    }


@pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])
async def test_a_turn_is_one_trace_through_all_services(traced, spans, loop):
    session = await traced.client.create_session()
    options = {"max_new_tokens": 40, "seed": 1, "draft": "model", "loop": loop}
    reply = await session.generate(SECRET, metadata=CALLER, **options).read()

    async def all_ended() -> bool:
        return {"outrider.turn", "outrider.draft"} <= set(by_name(spans))

    await until(all_ended)
    found, rounds = by_name(spans), reply.summary.rounds
    assert Counter(map(len, found.values())) == Counter({1: 2, rounds: 2})
    assert len(found["outrider.round"]) == len(found["outrider.verify"]) == rounds
    (turn,) = found["outrider.turn"]
    assert f"{turn.context.trace_id:032x}" == TRACE_ID
    assert f"{turn.parent.span_id:016x}" == CALLER_SPAN_ID
    for name in ("outrider.round", "outrider.verify", "outrider.draft"):
        for span in found[name]:
            assert span.context.trace_id == turn.context.trace_id
            assert span.parent.span_id == turn.context.span_id


async def test_the_spans_tell_the_rounds(traced, spans):
    session = await traced.client.create_session()
    reply = await session.generate(SECRET, max_new_tokens=40, seed=1, draft="model").read()
    found = by_name(spans)
    (turn,) = found["outrider.turn"]
    assert turn.attributes[telemetry.SESSION_ID] == session.id
    assert turn.attributes[telemetry.OUTPUT_TOKENS] == 40
    assert turn.attributes[telemetry.TURN_STATE] == "finished"
    rounds = [span.attributes for span in found["outrider.round"]]
    position = reply.started.start_position
    for attributes in rounds:
        assert attributes[telemetry.POSITION] == position
        position += attributes[telemetry.TOKENS]
    assert position == session.position
    assert sum(each[telemetry.PROPOSED] for each in rounds) == reply.summary.proposed
    assert sum(each[telemetry.AGREED] for each in rounds) == reply.summary.accepted
    assert all(span.start_time <= span.end_time for span in spans.get_finished_spans())


async def test_prompts_and_replies_are_not_recorded(traced, spans):
    reply = await generate(traced.client, SECRET, max_new_tokens=20, seed=1)
    recorded = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "outrider.turn" in recorded
    assert SECRET not in recorded
    assert reply.text not in recorded


async def test_a_cancelled_turn_ends_its_spans(traced, spans, caplog):
    session = await traced.client.create_session()
    reply = session.generate(SECRET, max_new_tokens=600, logit_bias={0: -100.0}, draft="model")
    for _ in range(5):
        await anext(reply)
    reply.cancel()
    await until_idle(session)

    async def all_ended() -> bool:
        return {"outrider.turn", "outrider.draft"} <= set(by_name(spans))

    await until(all_ended)
    (turn,) = by_name(spans)["outrider.turn"]
    assert turn.attributes[telemetry.TURN_STATE] == "cancelled"
    assert not [record for record in caplog.records if "detach" in record.message]


@pytest.mark.parametrize("believed_seconds", [0.0, 1000.0])
async def test_turns_that_no_target_has_room_for_are_counted_apart(
    meter, metered, stack: Stack, monkeypatch: pytest.MonkeyPatch, believed_seconds: float
):
    """Asked each time, or refused the second time by what the target said the first time."""
    monkeypatch.setattr(targets, "FULL_SECONDS", believed_seconds)
    await stack.start_target(metered)
    service = await stack.start_session(with_draft=False)
    sessions = [await service.client.create_session() for _ in range(2)]
    async with taken_slots(stack.target, 2):
        for session in sessions:
            with pytest.raises(outrider.ExhaustedError):
                await session.generate("x").read()
    counted = measured(meter)
    assert counted["outrider.refused_turns"] == 2
    assert "outrider.turns" not in counted


async def test_the_metrics_tell_how_many_tokens_were_read(meter, metered, stack: Stack):
    await stack.start_target(metered)
    service = await stack.start_session(with_draft=False)
    session = await service.client.create_session()
    options = {"max_new_tokens": 20, "seed": 1, "draft": "ngram"}
    first = await session.generate(LONG_PROMPT, **options).read()
    counts = measured(meter)
    assert counts["outrider.target.prefilled_tokens"] == 559
    second = await session.generate(list(range(200, 220)), **options).read()
    counts = measured(meter)
    assert counts["outrider.target.prefilled_tokens"] == 559 + 20
    summaries = (first.summary, second.summary)
    assert counts["outrider.turns"] == 2
    assert counts["outrider.tokens"] == sum(summary.tokens for summary in summaries)
    assert counts["outrider.rounds"] == sum(summary.rounds for summary in summaries)
    assert counts["outrider.proposed"] == sum(summary.proposed for summary in summaries)
    assert counts["outrider.agreed"] == sum(summary.accepted for summary in summaries)


async def test_nothing_is_recorded_or_sent_without_set_up(stack: Stack, target, monkeypatch):
    for variable in ("", "TRACES_", "METRICS_"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{variable}ENDPOINT", raising=False)
    stop = telemetry.set_up("outrider-test")
    draft = fake_drafts.ScriptedDraft(fake_drafts.early_end)
    await stack.start_target(target)
    await stack.start_draft(draft)
    service = await stack.start_session()
    await generate(service.client, SECRET, max_new_tokens=4, draft="model")
    assert not telemetry.tracer().start_span("x").is_recording()
    assert not isinstance(metrics.get_meter_provider(), MeterProvider)
    assert "traceparent" not in draft.metadata[0]
    stop()
