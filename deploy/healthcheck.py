"""Exits with 0 when the service at HEALTH_ADDRESS reports SERVING, with 1 otherwise.

For container health checks. Needs nothing but what every service has installed.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 2
NO_PROXY = ("grpc.enable_http_proxy", 0)


def is_serving(address: str) -> bool:
    """Asks the whole server's health; an unreachable one is not serving."""
    with grpc.insecure_channel(address, (NO_PROXY,)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if is_serving(os.environ["HEALTH_ADDRESS"]) else 1)
