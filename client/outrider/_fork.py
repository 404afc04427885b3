"""What a fork does to connections, and who may use which in the child.

gRPC's threads do not live on in a child of `fork`. What they served there can be neither used nor freed:
both wait for a thread that is not, or crash. So what was connected belongs to the process that did it, a
child keeps it for ever, and where gRPC was at work in the parent a child connects nothing.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass, field
from weakref import WeakSet

from outrider.errors import UsageError

_POLLER = "(_poll_wrapper)"
"""How the name of the thread ends that serves all of gRPC's asyncio channels of a process."""


class Owned:
    """Something that belongs to one process, from `own` on."""

    _forks: int | None = None

    def own(self) -> None:
        """It belongs to this process. Raises `UsageError` where gRPC cannot work in it."""
        if _here.is_barred:
            raise UsageError(
                "a client was open when this process was forked, and gRPC cannot be used in it: fork before "
                "the first call or after closing the clients, or start processes with 'spawn'"
            )
        self._forks = _here.forks
        _here.owned.add(self)

    @property
    def is_inherited(self) -> bool:
        """True where it belongs to a process that this one was forked from."""
        return self._forks is not None and self._forks != _here.forks

    def check_own(self) -> None:
        """Raises `UsageError` where it is inherited."""
        if self.is_inherited:
            raise UsageError(
                "the client was connected before this process was forked: connect in each process, and "
                "close the clients of the parent before it forks"
            )


@dataclass(slots=True)
class _Process:
    """What this process knows of forks."""

    forks: int = 0
    """How many lie between it and the first one."""
    is_barred: bool = False
    """gRPC was at work in the process that this one was forked from, or in one before."""
    owned: WeakSet[Owned] = field(default_factory=WeakSet)
    polls: bool = False
    """gRPC was at work in the process that is being forked."""

    def before(self) -> None:
        self.polls = any(thread.name.endswith(_POLLER) for thread in threading.enumerate())

    def after_in_child(self) -> None:
        self.forks += 1
        self.is_barred |= self.polls
        # One count of references too many, so that not even the end of the process frees them.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(list(self.owned)))


_here = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_here.before, after_in_child=_here.after_in_child)
