"""What the services' metrics say: a receiver of OTLP beside the benchmark.

Owns a server that services export to. Knows nothing of what the metrics mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2,
    metrics_service_pb2_grpc,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2
from outrider_server.core.errors import StartupError

EXPORT_INTERVAL_MS = 500
SILENCE_SECONDS = 60.0
SERVICE_NAME = "service.name"


class MetricsCollector(metrics_service_pb2_grpc.MetricsServiceServicer):
    """The latest value of each metric of each service. `variables` are for the services' environment."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self._latest: dict[str, tuple[int, dict[str, float]]] = {}
        self._news = asyncio.Event()

    async def Export(  # noqa: N802
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, _: object
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        """Takes in what a service exports."""
        for resource in request.resource_metrics:
            names = [
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == SERVICE_NAME
            ]
            self._latest[names[0] if names else ""] = summed(resource)
        news, self._news = self._news, asyncio.Event()
        news.set()
        return metrics_service_pb2.ExportMetricsServiceResponse()

    async def read(self, service: str) -> dict[str, float]:
        """A service's counters and gauges as they are now or a little later.

        Raises StartupError where it exports nothing.
        """
        asked = time.time_ns()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                while self._latest.get(service, (0, {}))[0] <= asked:
                    await self._news.wait()
        except TimeoutError as error:
            raise StartupError(
                f"{service} exports no metrics; unset the OTEL variables of this shell"
            ) from error
        return self._latest[service][1]


def summed(resource: metrics_pb2.ResourceMetrics) -> tuple[int, dict[str, float]]:
    """When the values were read, in ns since 1970, and each counter or gauge over all its attributes."""
    when, values = 0, {}
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            points = [*metric.sum.data_points, *metric.gauge.data_points]
            if points:
                when = max(when, *(point.time_unix_nano for point in points))
                values[metric.name] = sum(
                    float(point.as_int or point.as_double) for point in points
                )
    return when, values


@asynccontextmanager
async def running_collector() -> AsyncIterator[MetricsCollector]:
    """A collector on a free port of this machine."""
    server = grpc.aio.server()
    collector = MetricsCollector()
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    collector.variables = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_METRIC_EXPORT_INTERVAL": str(EXPORT_INTERVAL_MS),
    }
    try:
        yield collector
    finally:
        await server.stop(None)
