"""Channels and servers' options: how this system's processes talk to each other.

A frozen peer is found only with all three of keepalive time, keepalive timeout and HTTP/2 ping timeout;
with the first two alone it is not. Servers allow pings this often.
"""

from __future__ import annotations

import grpc

KEEPALIVE_MS = 2_000
PING_TIMEOUT_MS = 2_000
MAX_MESSAGE_BYTES = 64 << 20

_COMMON = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

CLIENT_OPTIONS = (
    *_COMMON,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Peers reach each other directly: the environment's http_proxy is meant for others.
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS = (
    *_COMMON,
    # Else a client that asks thrice while nothing is said is cut off for too many pings.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two servers on one port would share its connections; a taken port must be an error.
    ("grpc.so_reuseport", 0),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """A plaintext channel to HOST:PORT or unix:PATH."""
    return grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
