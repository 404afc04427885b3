"""Several ranks of one service: finds which this process is, and starts the others where nobody has.

Under `torchrun` its variables say which rank this is. Without it this process is rank 0, and starts the same
command for every other rank on this machine. Either way a `Group` comes out. Imports torch.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from . import lifeline
from .core.errors import StartupError
from .engine.model.hub import local_folder
from .engine.ranks.links import JOIN_SECONDS, SECRET_BYTES, Links, accept, connect, listen
from .engine.ranks.ranks import Group, Membership
from .start_reports import VARIABLE

LOOPBACK = "127.0.0.1"
LINK = "OUTRIDER_LINK"
"""Tells a rank that was started here where rank 0 listens, and the secret: PORT:HEX."""
STORED_LINK = "outrider/link"
"""Under this name torch's store tells the same to ranks that `torchrun` started."""
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STOP_SECONDS = 20.0


class Children:
    """The ranks that this process started. None under `torchrun`."""

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, size: int, variables: dict[str, str]) -> None:
        """Starts this process's own command for ranks 1 to size - 1."""
        for rank in range(1, size):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), VARIABLE: ""}
            self._processes[rank] = subprocess.Popen(
                lifeline.python("outrider_server", *sys.argv[1:]), **lifeline.bound(variables | own)
            )

    def check(self) -> None:
        """Raises StartupError where one has ended."""
        for rank, process in self._processes.items():
            if process.poll() is not None:
                raise StartupError(f"rank {rank} ended while it started; its message is above")

    def wait(self) -> None:
        """Waits for those that were told to stop; kills one that does not end."""
        for process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        """Ends all at once."""
        for process in self._processes.values():
            process.kill()
            process.wait()


class Ranks:
    """The group of this process, and the ranks that it started."""

    def __init__(self, group: Group, children: Children) -> None:
        self.group = group
        self._children = children

    @property
    def leads(self) -> bool:
        """True in the process that serves."""
        return self.group.membership.rank == 0

    def stop(self) -> None:
        """Rank 0: ends the others after their last step."""
        self.group.stop(STOP_SECONDS)
        self._children.wait()

    def kill(self) -> None:
        """Rank 0: ends the others at once, after a start that failed."""
        self.group.abandon()


def find_membership(wanted: int, variables: Mapping[str, str]) -> Membership | None:
    """Which rank this process is by the launcher's variables; None where no launcher has set them.

    Raises StartupError where they do not say the `wanted` number of ranks, or say nothing sensible.
    """
    if "RANK" not in variables or "WORLD_SIZE" not in variables:
        return None
    try:
        rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
        local_rank = int(variables.get("LOCAL_RANK", rank))
        local_size = int(variables.get("LOCAL_WORLD_SIZE", size))
    except ValueError as error:
        raise StartupError(
            "RANK and WORLD_SIZE are no numbers; unset them, or start by torchrun"
        ) from error
    if size != wanted:
        raise StartupError(
            f"the launcher started {size} ranks and --tensor-parallel says {wanted}; "
            "give both the same, or unset RANK and WORLD_SIZE"
        )
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        raise StartupError(f"the launcher's variables name rank {rank} of {size}")
    return Membership(rank, local_rank, size, local_size)


def gather(folder: Path, size: int, device: str) -> Ranks:
    """Brings `size` ranks together, each linked to rank 0. Nothing is loaded yet. Raises StartupError."""
    membership = find_membership(size, os.environ)
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the library would take a GPU wherever it sees one
    local_size = membership.local_size if membership else size
    if device == "cuda" and torch.cuda.device_count() < local_size:
        raise StartupError(
            f"{local_size} ranks need a CUDA device each and this machine has "
            f"{torch.cuda.device_count()}"
        )
    if membership is None or membership.rank == 0:
        from .engine.model.loading import check_model  # imports the library, which takes seconds

        check_model(local_folder(folder), size)
    if membership is None:
        return _start(size)
    return Ranks(_lead(membership) if membership.rank == 0 else _follow(membership), Children())


def _start(size: int) -> Ranks:
    """Rank 0 where no launcher is: starts the others on this machine."""
    store = distributed.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
    children, secret = Children(), secrets.token_bytes(SECRET_BYTES)
    with listen(LOOPBACK) as listener:
        values = ("", str(size), "", str(size), LOOPBACK, str(store.port))
        link = f"{listener.getsockname()[1]}:{secret.hex()}"
        children.start(size, {**dict(zip(LAUNCHER, values, strict=True)), LINK: link})
        try:
            links = accept(listener, secret, size, children.check, JOIN_SECONDS)
        except BaseException:
            children.kill()
            raise
    return Ranks(Group(Membership(0, 0, size, size), links, store, children.kill), children)


def _lead(membership: Membership) -> Group:
    """Rank 0 under `torchrun`: the others learn from torch's store where it listens."""
    store, secret = _store(), secrets.token_bytes(SECRET_BYTES)
    with listen(os.environ["MASTER_ADDR"]) as listener:
        store.set(STORED_LINK, f"{listener.getsockname()[1]}:{secret.hex()}")
        links: Links = accept(listener, secret, membership.size, lambda: None, JOIN_SECONDS)
    return Group(membership, links, store)


def _follow(membership: Membership) -> Group:
    """Another rank. From here on it ends when rank 0 does, and by no signal that asks it to."""
    told = os.environ.get(LINK, "")
    store = None if told else _store()
    try:
        link_text = told if store is None else store.get(STORED_LINK).decode()
        port, _, secret = link_text.partition(":")
    except RuntimeError as error:
        raise StartupError(f"rank 0 did not come within {JOIN_SECONDS:.0f} s") from error
    link = connect(os.environ["MASTER_ADDR"], int(port), bytes.fromhex(secret), membership.rank)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return Group(membership, link, store or _store())


def _store() -> distributed.Store:
    """Torch's store, which the launcher's variables name. Raises StartupError."""
    try:
        rendezvous = distributed.rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS))
        store: distributed.Store = next(iter(rendezvous))[0]
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')} port {os.environ.get('MASTER_PORT')}"
        raise StartupError(f"the ranks cannot meet at {where}: is MASTER_ADDR right?") from error
    return store
