"""The spans of a turn: one for the turn, one for each round, children of whatever the caller traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import trace

from ..core.types import Round
from ..rpc import telemetry
from ..speculation.lifecycle import TurnState


class TurnTrace:
    """Starts the turn's span; does next to nothing when nobody records."""

    def __init__(
        self,
        session_id: str,
        caller_metadata: Iterable[tuple[str, str | bytes]] | None,
        wall_ns: Callable[[], int],
    ) -> None:
        self._wall_ns = wall_ns
        self._tracer = telemetry.tracer()
        caller = telemetry.incoming_context(caller_metadata)
        self._span = self._tracer.start_span(telemetry.TURN_SPAN, caller)
        self._span.set_attribute(telemetry.SESSION_ID, session_id)
        self._round_started_ns = wall_ns()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the turn's span the current one, so that calls made inside carry it."""
        with trace.use_span(self._span, end_on_exit=False):
            yield

    def round(self, decided: Round) -> None:
        """Adds the span of a round that has just been recorded."""
        if not self._span.is_recording():
            return
        span = self._tracer.start_span(
            telemetry.ROUND_SPAN,
            trace.set_span_in_context(self._span),
            start_time=self._round_started_ns,
        )
        span.set_attributes(
            {
                telemetry.POSITION: decided.start_position,
                telemetry.PROPOSED: decided.proposed,
                telemetry.AGREED: decided.agreed,
                telemetry.TOKENS: len(decided.tokens),
            }
        )
        span.end()
        self._round_started_ns = self._wall_ns()

    def end(self, tokens: int, state: TurnState) -> None:
        """Ends the turn's span."""
        self._span.set_attribute(telemetry.OUTPUT_TOKENS, tokens)
        self._span.set_attribute(telemetry.TURN_STATE, state.value)
        self._span.end()
