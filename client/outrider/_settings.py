"""What a client is given: target, options, deadlines, metadata. Checked before anything is connected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import cast

import grpc

from outrider import _address, _checks

Metadata = Mapping[str, str]
MetadataSource = Metadata | Callable[[], Metadata]
ChannelOptions = Sequence[tuple[str, int | str]]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_TIMEOUT_MS = 315_360_000_000
"""Ten years; far above, gRPC's clock overflows and every deadline is past."""

RESERVED_HEADERS = frozenset(
    (
        *("te", "content-type", "content-length", "user-agent", "host"),
        *("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"),
        *("grpclb_client_stats", "x-envoy-peer-metadata"),
    )
)
"""What gRPC leaves out or writes itself, and what HTTP/2 forbids beside its own."""
RESERVED_PREFIX = "grpc-"

_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(r"[ -~]*")


def channel_options(extra: ChannelOptions) -> list[tuple[str, int | str]]:
    """The options of the channel, `extra` before the SDK's own. Raises `InvalidRequestError`."""
    options: list[tuple[str, int | str]] = [
        # A frozen peer is noticed only where all three are set: the first two time the keepalive,
        # and the last the ping that carries it, which otherwise waits for 60 s.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        # A stream that only receives sends no data, and would ask no more after the second ping.
        ("grpc.http2.max_pings_without_data", 0),
        # A service that restarts is found again within a second, not within gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # So that a service waits for a reader that is slow: by default gRPC takes in megabytes ahead.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 16_384),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.primary_user_agent", f"outrider-python/{version('outrider')}"),
        *map(_channel_option, _pairs(extra)),
    ]
    return list(dict(options).items())  # of two options of one name gRPC takes the first


def checked_target(target: object) -> str:
    """The address as gRPC takes it. Raises `InvalidRequestError`."""
    written = _checks.text("target", target)
    try:
        if written != written.strip():
            raise ValueError(f"{written!r} begins or ends with a space")
        return _address.read_peer(written)
    except ValueError as error:
        raise _checks.refused("target", str(error)) from None


def checked_credentials(credentials: object) -> grpc.ChannelCredentials | None:
    """Credentials, or none. Raises `InvalidRequestError`."""
    if credentials is None or isinstance(credentials, grpc.ChannelCredentials):
        return credentials
    raise _checks.invalid("credentials", "is grpc.ChannelCredentials or None", credentials)


def checked_metadata(metadata: object) -> list[tuple[str, str]]:
    """The metadata as gRPC takes it. Raises `InvalidRequestError` for what no header can carry."""
    if not isinstance(metadata, Mapping):
        raise _checks.invalid("metadata", "maps headers to texts", metadata)
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise _checks.invalid("metadata", "maps headers to texts", {key: value})
        if not _METADATA_KEY.fullmatch(key) or not _METADATA_VALUE.fullmatch(value):
            raise _checks.refused(
                "metadata", f"metadata {key!r} is not a lower-case header with a printable value"
            )
        if key.endswith("-bin"):
            raise _checks.invalid("metadata", 'has no binary headers, which end in "-bin"', key)
        if key.startswith(RESERVED_PREFIX) or key in RESERVED_HEADERS:
            raise _checks.refused(
                "metadata", f"metadata {key!r} is a header of gRPC's own; give yours another name"
            )
    return list(metadata.items())


def timeout_seconds(timeout_ms: object) -> float | None:
    """A deadline as gRPC takes it; None for none. Raises `InvalidRequestError`: gRPC reads 0 as none."""
    if timeout_ms is None:
        return None
    milliseconds = _checks.number("timeout_ms", timeout_ms)
    if not 1 <= milliseconds <= MAX_TIMEOUT_MS:
        rule = f"is 1 to {MAX_TIMEOUT_MS}, or None for no deadline"
        raise _checks.invalid("timeout_ms", rule, timeout_ms)
    return milliseconds / 1000


def resume_seconds(resume_ms: object) -> float:
    """For how long to resume. Raises `InvalidRequestError`."""
    milliseconds = _checks.number("resume_ms", resume_ms)
    if not 0 <= milliseconds <= MAX_TIMEOUT_MS:
        raise _checks.invalid("resume_ms", f"is 0 to {MAX_TIMEOUT_MS}", resume_ms)
    return milliseconds / 1000


def _pairs(options: object) -> Iterable[object]:
    if isinstance(options, (str, bytes, Mapping)) or not isinstance(options, Iterable):
        raise _checks.invalid("channel_options", "is pairs of a name and a value", options)
    return options


def _channel_option(option: object) -> tuple[str, int | str]:
    if isinstance(option, (tuple, list)) and len(option) == 2:
        name, value = option
        if isinstance(name, str) and isinstance(value, (int, str, bytes)):
            if isinstance(value, int):
                _checks.sized_integer("channel_options", int(value), 32, noun=f"option {name!r}")
            return cast(tuple[str, int | str], (name, value))
    raise _checks.invalid("channel_options", "is pairs of a name and a value", option)
