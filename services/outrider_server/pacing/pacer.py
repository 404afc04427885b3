"""The pace of one session, round by round: chosen while speculation pays, looked at again while it does not.

Owns no measurement: it is told which guesses were compared with decided tokens and what things cost. The
simulator's adaptive turn runs on this class.
"""

from __future__ import annotations

from .estimates import AgreementEstimate, Probe
from .window import Costs, Pace, choose_pace, plain_ms

PROBED_GUESSES = 8
"""Guesses to compare before a probe is answered."""


class Pacer:
    """Chooses the pace of the next round.

    A probe proposes nothing: the draft guesses, nobody waits for it, and the guesses are compared with what
    the target decides meanwhile, however late they come. So it costs what two models at once cost the
    machine, and no round trip.
    """

    def __init__(self, agreement: AgreementEstimate, max_window: int) -> None:
        self.agreement = agreement
        self._max_window = max_window
        self._probe = Probe()
        self._compared: int | None = None

    def observe(self, compared: int, agreed: int, decided: int) -> None:
        """Takes a round's outcome.

        Of the guesses that stood for decided positions, up to the first wrong one, `compared` were compared
        and `agreed` agreed. `decided` tokens were decided in all. Raises ValueError unless
        0 <= agreed <= compared.
        """
        self.agreement.observe(compared, agreed)
        self.agreement.fade(max(0, decided - compared))
        if self._compared is not None:
            self._compared += compared

    def choose(
        self,
        costs: Costs,
        ahead_costs: Costs | None = None,
        useful_window: int | None = None,
        resting_ms: float | None = None,
    ) -> Pace:
        """The pace of the next round; arguments as in `choose_pace`.

        `useful_window` is less than the largest window where the target has no room for more.
        """
        window = self._max_window
        if useful_window is not None:
            window = min(window, useful_window)
        if self._max_window == 0:
            return Pace(0, 0, 0, False, plain_ms(costs))
        if self._compared is not None and self._compared < PROBED_GUESSES:
            return self._probing(costs)
        pace = choose_pace(
            self.agreement.value, costs, window, ahead_costs=ahead_costs, resting_ms=resting_ms
        )
        if self._compared is not None:
            self._probe.answer(pays=pace.window > 0)
            self._compared = None
        if pace.window:
            return pace
        if self._probe.due:
            self._compared = 0
            return self._probing(costs)
        self._probe.rest()
        return pace

    def _probing(self, costs: Costs) -> Pace:
        return Pace(0, 0, self._max_window, True, plain_ms(costs))
