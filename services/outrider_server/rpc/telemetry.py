"""Traces and metrics: set-up by the standard environment variables, and every name that is used.

Without OTEL_EXPORTER_OTLP_ENDPOINT (or its variants for traces or metrics) nothing is set up: the
OpenTelemetry API's own no-op objects are all that runs. Prompts and replies are never recorded.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation

from ..core.errors import StartupError

STOP_SECONDS = 2.0
"""How long the last spans and readings may take to a collector when a service ends."""

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
    """Starts exporting where the environment asks for it; returns what flushes and stops it, in bounded time.

    Raises StartupError for variables that make no sense.
    """
    try:
        import opentelemetry.propagate  # noqa: F401 - reads OTEL_PROPAGATORS

        stops = _exporting(service_name)
    except Exception as error:  # the library raises what its parsers do
        what = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise StartupError(
            f"telemetry cannot be set up: {what}; correct the variable whose name begins with OTEL_"
        ) from error

    return lambda: end_within(STOP_SECONDS, stops)


def end_within(
    seconds: float,
    stops: Sequence[Callable[[], object]],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Calls all at once, and leaves those behind that take longer."""
    ending = [threading.Thread(target=each, daemon=True) for each in stops]
    deadline = clock() + seconds
    for thread in ending:
        thread.start()
    for thread in ending:
        thread.join(max(0.0, deadline - clock()))


def _exporting(service_name: str) -> list[Callable[[], object]]:
    """Sets up what is wanted; returns what stops each."""
    stops: list[Callable[[], object]] = []
    if not (_wanted("TRACES") or _wanted("METRICS")):
        return stops
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.name": service_name, "service.namespace": "outrider"})
    if _wanted("TRACES"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(tracers)
        stops.append(tracers.shutdown)
    if _wanted("METRICS"):
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        meters = MeterProvider([reader], resource, shutdown_on_exit=False)
        metrics.set_meter_provider(meters)
        stops.append(meters.shutdown)
    return stops


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
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def incoming_context(metadata: Iterable[tuple[str, str | bytes]] | None) -> otel_context.Context:
    """The trace context that a call carries."""
    from opentelemetry import propagate

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
