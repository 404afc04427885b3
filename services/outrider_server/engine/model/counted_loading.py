"""How far the library is while it loads a model: it counts for a bar, and lets that be replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as library_logging

from ...core.progress import Progress, Report, Stage

LOADING = "Loading weights"
"""What the library calls its bar over the weights, (name, how it is loaded) each."""


@contextmanager
def counted_loading(sizes: Mapping[str, int], tell: Progress) -> Iterator[None]:
    """Tells how many bytes are loaded, of weights whose sizes these are. One caller at a time."""

    def replaced(make: Callable[..., Any], given: Any, named: Any) -> Any:
        bar = make(*given, **named)
        return _Counted(bar, sizes, tell) if named.get("desc") == LOADING else bar

    tell(Report(Stage.LOADING, 0, sum(sizes.values())))
    before = library_logging.set_tqdm_hook(replaced)
    try:
        yield
    finally:
        library_logging.set_tqdm_hook(before)


class _Counted:
    """The library's bar, which also tells."""

    def __init__(self, bar: Any, sizes: Mapping[str, int], tell: Progress) -> None:
        self._bar = bar
        self._sizes = sizes
        self._tell = tell

    def __iter__(self) -> Iterator[Any]:
        total, done = sum(self._sizes.values()), 0
        for name, weight in self._bar:
            yield name, weight
            done += self._sizes.get(name, 0)
            self._tell(Report(Stage.LOADING, done, total))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)
