"""Tensor parallelism: the ranks of one model, each with its share of the weights and of the cache.

Rank 0 has the service, the slots and the draws. Before each forward pass it tells the others, over the links,
which one and over which input; they run the same over their shares and throw the outcome away. How a model is
shared out is the library's plan (`sharing.py`); what the shares exchange goes through torch.distributed.

A rank that fails or ends leaves the others in the middle of a sum, so it ends them all: `give_up` ends the
process, and the links carry the news.
"""

from __future__ import annotations

import enum
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

import torch
from torch import distributed

from ...core.errors import OutriderError, StartupError
from ..layout import INPUT_KINDS
from .links import Link, Links

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

COLLECTIVE_HOURS = 2
"""How long a rank waits in a collective for others that live: they may load from slower disks. The links end
what waits for the dead."""
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}

T = TypeVar("T")
_ending = threading.Lock()


class Operation(enum.IntEnum):
    """What rank 0 tells the others to run. All but the last have int64 values as their input."""

    DECIDE = 1
    """A verify step over [INPUT_KINDS, N]."""
    READ = 2
    """A prefill step over the same."""
    WIPE = 3
    """Zeroing of the slot [1]."""
    STOP = 4
    """End, with exit status 0."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Where a process stands among the ranks, as the variables of torch's launcher say."""

    rank: int
    local_rank: int
    size: int
    local_size: int


class Runner(Protocol):
    """What another rank runs its operations on."""

    def repeat(self, operation: int, inputs: torch.Tensor) -> None:
        """Runs an operation that rank 0 runs too."""
        ...


class Group:
    """The ranks of one model, as one of them sees them."""

    def __init__(
        self,
        membership: Membership,
        links: Links | Link,
        store: Store,
        end_others: Callable[[], None] = lambda: None,
    ) -> None:
        """From now on the process ends when another rank does; `end_others` ends those that it started."""
        self.membership = membership
        self._links = links
        self._store = store
        self._end_others = end_others
        if isinstance(links, Links):
            links.watch(self._lost)
        else:
            links.watch(Operation.STOP, self._lost)

    def join(self, device: torch.device) -> None:
        """Opens torch's process group, once every rank is here. Raises StartupError."""
        backend = BACKENDS[device.type]
        try:
            distributed.init_process_group(
                backend,
                store=distributed.distributed_c10d.PrefixStore("outrider", self._store),
                rank=self.membership.rank,
                world_size=self.membership.size,
                timeout=timedelta(hours=COLLECTIVE_HOURS),
                device_id=device if backend == "nccl" else None,
            )
        except RuntimeError as error:
            raise StartupError(
                f"the {self.membership.size} ranks do not reach each other by {backend}"
            ) from error

    def mirrored(
        self, operation: Operation, function: Callable[[torch.Tensor], T]
    ) -> Callable[[torch.Tensor], T]:
        """Rank 0: the function, run by every rank over the same int64 input. Other ranks: itself."""
        links = self._links
        if isinstance(links, Link):
            return function

        def run(inputs: torch.Tensor) -> T:
            try:
                links.send(operation, inputs.cpu().numpy().tobytes())
                return function(inputs)
            except OutriderError:
                raise
            except Exception as error:
                self._fail(error)

        return run

    def follow(self, runner: Runner, device: torch.device) -> None:
        """Another rank: runs what rank 0 tells, until it tells to stop."""
        assert isinstance(self._links, Link), "rank 0 leads"
        while True:
            operation, payload = self._links.take()
            if operation == Operation.STOP:
                break
            inputs = torch.frombuffer(bytearray(payload), dtype=torch.int64)
            if operation != Operation.WIPE:
                inputs = inputs.view(INPUT_KINDS, -1)
            try:
                runner.repeat(operation, inputs.to(device))
            except OutriderError:
                raise
            except Exception as error:
                self._fail(error)
        distributed.destroy_process_group()
        self._links.close()

    def abandon(self) -> None:
        """Rank 0: ends the others, those that it started before they can say that it is gone."""
        assert isinstance(self._links, Links), "rank 0 leads"
        self._links.abandon(self._end_others)

    def stop(self, seconds: float) -> None:
        """Rank 0: ends the others, and waits for them."""
        assert isinstance(self._links, Links), "the others are told to stop"
        if not self._links.end(Operation.STOP, seconds):
            give_up(f"not every rank stopped within {seconds:.0f} s", self._end_others)
        distributed.destroy_process_group()

    def _lost(self, rank: int) -> None:
        give_up(
            f"rank {rank} of {self.membership.size} is gone, and the others end", self._end_others
        )

    def _fail(self, error: Exception) -> NoReturn:
        text = str(error).strip().splitlines()
        what = text[0] if text else type(error).__name__
        membership = self.membership
        give_up(
            f"rank {membership.rank} of {membership.size} failed in a step ({what})",
            self._end_others,
        )


def give_up(sentence: str, end_others: Callable[[], None]) -> NoReturn:
    """Ends the process at once, with status 1: a group that lost a rank can do nothing any more."""
    _ending.acquire()  # for good: what else fails now says nothing
    print(f"outrider: {sentence}", file=sys.stderr, flush=True)
    end_others()
    os._exit(1)
