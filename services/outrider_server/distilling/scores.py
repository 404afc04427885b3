"""What the target says of its replies, on the disk: its best tokens at each position, and their chances.

Files that only grow, read through memory maps. A reply counts once its own record stands, which is written
last; what a kill left behind it is cut off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .disk import kept_room

TOP = 64
"""So many of the target's tokens are kept at each position."""
NO_TOKEN = -1
"""Fills up where the vocabulary has fewer."""
POSITION = np.dtype([("ids", "<i4", (TOP,)), ("logprobs", "<f2", (TOP,)), ("rest", "<f4")])
"""Best tokens, their logprobs at the temperature of learning, and the log-sum-exp of all others."""
REPLY = np.dtype([("prompt", "<i4"), ("tokens", "<i4"), ("temperature", "<f4")])
"""Lengths of a prompt and its reply, and the temperature at which that was drawn."""
TOKEN = np.dtype("<i4")

GREEDY_TEMPERATURE = 0.3
"""What greedy replies are learnt at: sharp, and still telling what comes close behind the best token."""

Array = npt.NDArray[Any]


def learning_temperature(temperature: float) -> float:
    """The temperature at which replies of this one are learnt: one above 0."""
    return temperature or GREEDY_TEMPERATURE


@dataclass(frozen=True, slots=True)
class ScoredReplies:
    """Scored replies, in order."""

    replies: Array
    """[R] of REPLY."""
    tokens: Array
    """[P] int32: each prompt and its reply, one after the other."""
    positions: Array
    """[N] of POSITION: of each token of a reply, what stood to be chosen."""

    def token_starts(self) -> npt.NDArray[np.int64]:
        """Where each reply's prompt begins in `tokens`: [R]."""
        return _starts(self.replies["prompt"].astype(np.int64) + self.replies["tokens"])

    def position_starts(self) -> npt.NDArray[np.int64]:
        """Where each reply begins in `positions`: [R]."""
        return _starts(self.replies["tokens"].astype(np.int64))


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.cumsum(lengths) - lengths


class ScoreFiles:
    """The files of a folder. Not for two writers at once."""

    def __init__(self, folder: Path) -> None:
        """Makes them, or drops what a kill left unfinished. Raises StartupError for a disk without room."""
        self._replies = folder / "replies.bin"
        self._tokens = folder / "tokens.bin"
        self._positions = folder / "positions.bin"
        with kept_room(folder):
            folder.mkdir(exist_ok=True)
            for path in (self._replies, self._tokens, self._positions):
                path.open("ab").close()
            count = self._replies.stat().st_size // REPLY.itemsize
            self._cut(self._replies, count * REPLY.itemsize)
            done = self._read(self._replies, REPLY)
            tokens = int(done["tokens"].sum(dtype=np.int64))
            prompts = int(done["prompt"].sum(dtype=np.int64))
            self._cut(self._tokens, (prompts + tokens) * TOKEN.itemsize)
            self._cut(self._positions, tokens * POSITION.itemsize)
        self.count = count
        """Replies that are scored."""

    def append(self, reply: Array, tokens: Array, positions: Array) -> None:
        """Adds a reply: [] of REPLY, int32 [prompt + tokens], [tokens] of POSITION. Raises StartupError."""
        for path, content in (
            (self._tokens, tokens),
            (self._positions, positions),
            (self._replies, reply),
        ):
            with kept_room(path), path.open("ab", buffering=0) as file:
                rest = memoryview(content.tobytes())
                while rest:
                    rest = rest[file.write(rest) :]
        self.count += 1

    def scored(self, count: int) -> ScoredReplies:
        """The first so many replies."""
        replies = self._read(self._replies, REPLY)[:count]
        tokens = int(replies["tokens"].sum(dtype=np.int64))
        prompts = int(replies["prompt"].sum(dtype=np.int64))
        return ScoredReplies(
            replies,
            self._read(self._tokens, TOKEN)[: prompts + tokens],
            self._read(self._positions, POSITION)[:tokens],
        )

    def _cut(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def _read(self, path: Path, dtype: np.dtype[np.void] | np.dtype[np.int32]) -> Array:
        """The file's records, over its own pages; memory cannot map an empty file."""
        if not path.stat().st_size:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")
