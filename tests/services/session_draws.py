"""What Hypothesis draws for the calls of `test_session_machine.py`."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from .session_model import Asked

MAX_LIVE = 4
"""Sessions at a time."""
ASKED = st.builds(
    Asked,
    prompt=st.sampled_from([(5,), (100, 7), (9, 9, 9)]),
    seed=st.integers(0, 2),
    max_new_tokens=st.integers(1, 8),
    stop=st.sampled_from([(), ("e",), ("a", "r")]),
)


@dataclass(frozen=True)
class Drawn:
    """What a call is made with; each takes what it needs."""

    pick: int
    """Of the sessions."""
    asked: Asked
    request_id: str
    place: int = 0
    """A position or a turn, from 0 and round again."""
    index: int = 0
    flag: bool = False
    draft: str = "auto"
    page_size: int = 1
    outside: int = -1
    """A position that no session has; a positive one counts from its end."""
    bad_page_size: int = -1


DRAWN = st.builds(
    Drawn,
    pick=st.integers(0, MAX_LIVE - 1),
    asked=ASKED,
    request_id=st.sampled_from(["", "red", "blue"]),
    place=st.integers(0, 99),
    index=st.integers(0, 99),
    flag=st.booleans(),
    draft=st.sampled_from(["auto", "off"]),
    page_size=st.integers(1, 3),
    outside=st.sampled_from([-1, -(2**31), -(2**62), 1, 2**30, 2**62]),
    bad_page_size=st.sampled_from([-1, 1001, 2**62]),
)
