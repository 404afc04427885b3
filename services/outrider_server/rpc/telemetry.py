"""Traces and metrics: set-up by the standard environment variables, and every name that is used.

Without OTEL_EXPORTER_OTLP_ENDPOINT (or its variants for traces or metrics) nothing is set up: the
OpenTelemetry API's own no-op objects are all that runs. Prompts and replies are never recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Observation

SCOPE = "outrider"

TURN_SPAN = "outrider.turn"
ROUND_SPAN = "outrider.round"
VERIFY_SPAN = "outrider.verify"
DRAFT_SPAN = "outrider.draft"

SESSION_ID = "outrider.session.id"
POSITION = "outrider.position"
PROPOSED = "outrider.proposed"
AGREED = "outrider.agreed"
TOKENS = "outrider.tokens"
SOURCE = "outrider.source"
BATCH_ROWS = "outrider.batch_rows"
TURN_STATE = "outrider.turn.state"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

Metadata = tuple[tuple[str, str], ...]


def set_up(service_name: str) -> Callable[[], None]:
    """Starts exporting where the environment asks for it; returns what flushes and stops it."""
    stops: list[Callable[[], object]] = []
    if _wanted("TRACES") or _wanted("METRICS"):
        from opentelemetry.sdk.resources import Resource

        resource = Resource.create({"service.name": service_name, "service.namespace": "outrider"})
        if _wanted("TRACES"):
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            tracers = TracerProvider(resource=resource)
            tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            trace.set_tracer_provider(tracers)
            stops.append(tracers.shutdown)
        if _wanted("METRICS"):
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

            meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource)
            metrics.set_meter_provider(meters)
            stops.append(meters.shutdown)

    def stop() -> None:
        for each in stops:
            each()

    return stop


def _wanted(signal: str) -> bool:
    return bool(
        os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    )


def tracer() -> trace.Tracer:
    """The tracer of this system."""
    return trace.get_tracer(SCOPE)


def outgoing_metadata() -> Metadata:
    """The current trace context as W3C metadata for a call; empty without a trace."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def incoming_context(metadata: Iterable[tuple[str, str | bytes]] | None) -> otel_context.Context:
    """The trace context that a call carries."""
    carrier = {key: value for key, value in metadata or () if isinstance(value, str)}
    return propagate.extract(carrier)


class TurnMetrics:
    """What the session service counts."""

    def __init__(self) -> None:
        meter = metrics.get_meter(SCOPE)
        self.rounds = meter.create_counter("outrider.rounds", "{round}", "Verify steps asked for")
        self.proposed = meter.create_counter("outrider.proposed", "{token}", "Tokens proposed")
        self.agreed = meter.create_counter(
            "outrider.agreed", "{token}", "Proposed tokens committed"
        )
        self.tokens = meter.create_counter("outrider.tokens", "{token}", "Tokens committed")
        self.turns = meter.create_counter("outrider.turns", "{turn}", "Turns by how they ended")
        self.refused = meter.create_counter(
            "outrider.refused_turns", "{turn}", "Turns that no target had room for"
        )
        self.first_token = meter.create_histogram(
            "gen_ai.server.time_to_first_token", "s", "From request to first token"
        )


class LedgerMetrics:
    """What is counted of the ledger."""

    def __init__(self) -> None:
        meter = metrics.get_meter(SCOPE)
        self.expired = meter.create_counter(
            "outrider.expired_sessions", "{session}", "Sessions deleted because they expired"
        )


Readings = Mapping[str, tuple[str, str, Callable[[], float]]]
"""Name -> (unit, description, read)."""


def observe_counters(readings: Readings) -> None:
    """Registers what is counted elsewhere and only grows."""
    meter = metrics.get_meter(SCOPE)
    for name, (unit, description, read) in readings.items():
        meter.create_observable_counter(name, [_observer(read)], unit, description)


def observe_gauges(readings: Readings) -> None:
    """Registers what is kept elsewhere and goes up and down."""
    meter = metrics.get_meter(SCOPE)
    for name, (unit, description, read) in readings.items():
        meter.create_observable_gauge(name, [_observer(read)], unit, description)


def _observer(read: Callable[[], float]) -> Callable[[CallbackOptions], list[Observation]]:
    return lambda _: [Observation(read())]
