"""The most that may be asked for, where several parts of the system hold it."""

from __future__ import annotations

MAX_TTL_SECONDS = 10 * 365 * 86400
"""How long a session may live after its last write."""
MAX_LEASE_SECONDS = 3600.0
"""How long a service may own a session without renewing it."""
