"""Metrics as a service exports them, read by the benchmark's own receiver."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from outrider_bench import collector as module
from outrider_bench.collector import running_collector
from outrider_server.core.errors import StartupError


async def test_counters_and_gauges_are_read_as_they_are_after_the_question() -> None:
    async with running_collector() as collector:
        exporter = OTLPMetricExporter(
            endpoint=collector.variables["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"], insecure=True
        )
        provider = MeterProvider(
            [PeriodicExportingMetricReader(exporter, export_interval_millis=20)],
            Resource.create({"service.name": "tested"}),
        )
        meter = provider.get_meter("tested")
        counter = meter.create_counter("counted")
        held = [1.5]

        def observe(_: CallbackOptions) -> list[Observation]:
            return [Observation(held[0])]

        meter.create_observable_gauge("held", [observe])
        counter.add(2, {"kind": "a"})
        counter.add(3, {"kind": "b"})
        assert await collector.read("tested") == {"counted": 5.0, "held": 1.5}
        counter.add(1, {"kind": "a"})
        held[0] = 0.0
        assert await collector.read("tested") == {"counted": 6.0, "held": 0.0}
        await asyncio.to_thread(provider.shutdown)


async def test_a_service_that_exports_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.0)
    async with running_collector() as collector:
        with pytest.raises(StartupError, match="silent exports no metrics"):
            await collector.read("silent")
