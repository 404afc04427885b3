"""The replies of a run: a file that only grows, and of which the first lines are the same for every budget.

Replies stand in the order of their conversations, whoever ended first. A process that was killed leaves a
line that is cut off, or a conversation of which some replies are missing; both go when the file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import StartupError
from .disk import kept_room, replaced
from .reply import Reply, read_reply


@dataclass(frozen=True, slots=True)
class Written:
    """What a file of replies holds."""

    replies: int = 0
    tokens: int = 0
    """Of the replies alone."""
    conversations: int = 0
    """Number of the next conversation to be written."""


class ReplyFile:
    """Replies on the disk. Not for two writers at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.written = Written()

    def begin(self, given: Iterable[Reply]) -> None:
        """Makes the file of given replies, unless it is there; drops what a kill left unfinished.

        Raises StartupError for a file that holds something else, or a disk without room.
        """
        if not self._path.exists():
            with replaced(self._path) as file:
                file.writelines(reply.line().encode() for reply in given)
        size = self._mend()
        with kept_room(self._path):
            os.truncate(self._path, size)

    def append(self, conversation: int, replies: Iterable[Reply]) -> None:
        """Adds a conversation. Raises StartupError for a disk without room."""
        numbered = [replace(reply, conversation=conversation) for reply in replies]
        with kept_room(self._path), self._path.open("ab", buffering=0) as file:
            content = memoryview("".join(map(Reply.line, numbered)).encode())
            while content:
                content = content[file.write(content) :]
        self._count(numbered, conversation + 1)

    def replies(self) -> Iterator[Reply]:
        """All of them, in order."""
        with self._path.open("rb") as file:
            yield from map(read_reply, file)

    def first(self, tokens: int) -> Iterator[Reply]:
        """The first replies that have so many tokens together, the last one whole, or all of them."""
        left = tokens
        for reply in self.replies():
            if left <= 0:
                return
            left -= len(reply.tokens)
            yield reply

    def _mend(self) -> int:
        """Counts what is whole, and returns how many bytes that is."""
        size, whole, before = 0, 0, Written()
        last: int | None = None
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    reply = read_reply(line)
                except ValueError as error:
                    raise StartupError(f"{self._path}, line {number}: {error}") from error
                if reply.conversation is not None and reply.conversation != last:
                    last, whole, before = reply.conversation, size, self.written
                    before = replace(before, conversations=last)
                size += len(line)
                self._count([reply], before.conversations)
        if last is None:
            return size
        self.written = before
        return whole

    def _count(self, replies: list[Reply], conversations: int) -> None:
        tokens = sum(len(reply.tokens) for reply in replies)
        written = self.written
        self.written = Written(
            written.replies + len(replies), written.tokens + tokens, conversations
        )


def read_given(paths: Iterable[Path], vocabulary_size: int) -> Iterator[Reply]:
    """Replies that a user gives. Raises StartupError for a line that holds none, or one of another model."""
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    reply = read_reply(line)
                    _check_ids(reply, vocabulary_size)
                except ValueError as error:
                    raise StartupError(f"{path}, line {number}: {error}") from error
                yield replace(reply, conversation=None)


def _check_ids(reply: Reply, vocabulary_size: int) -> None:
    largest = max(*reply.prompt, *reply.tokens)
    if largest >= vocabulary_size:
        raise ValueError(
            f"it has token id {largest}, and the target has ids 0 to {vocabulary_size - 1} only"
        )
