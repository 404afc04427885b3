"""Many dialogues written at once by one engine, and handed out in the order of their numbers.

A token depends on its own dialogue alone, so what is written does not depend on which others share a step, or
on where a run was stopped.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from ..core.errors import InvalidRequest, OutriderError, StartupError
from ..core.types import Step
from ..engine.engine import Engine, OpenedSlot
from ..engine.scheduling.scheduler import Work
from ..engine.verifying import VerifyJob
from .assignments import Conversation
from .dialogue import Dialogue, Wanted
from .reply import Reply

Replies = tuple[int, tuple[Reply, ...]]
"""A conversation's number, and the replies in it; none where it could not be held."""


@dataclass(slots=True)
class _Line:
    """A dialogue in its slot."""

    number: int
    dialogue: Dialogue
    wanted: Wanted
    opened: OpenedSlot
    epoch: int
    written: list[int] = field(default_factory=list)

    @property
    def is_ended(self) -> bool:
        """Whether the text that is wanted stands there."""
        return bool(self.written) and (
            self.written[-1] in self.wanted.ends or len(self.written) >= self.wanted.most_tokens
        )

    def job(self, engine: Engine) -> VerifyJob:
        """What decides the next token."""
        held = len(self.opened.slot.tokens)
        unread = (*self.wanted.prompt, *self.written)[held:]
        return VerifyJob(engine, self.opened.slot, self.opened.opening, Step(held, unread))


class Writer:
    """Runs an engine over dialogues: a token of each in every step. One thread's."""

    def __init__(self, engine: Engine, conversations: Iterator[Conversation]) -> None:
        self._engine = engine
        self._conversations = conversations
        self._lines: list[_Line] = []
        self._order: list[int] = []
        self._ended: dict[int, tuple[Reply, ...]] = {}

    def replies(self) -> Generator[Replies, None, None]:
        """The conversations' replies, in order. Raises StartupError where the target gives no numbers."""
        try:
            while self._fill():
                while self._order and self._order[0] in self._ended:
                    number = self._order.pop(0)
                    yield number, self._ended.pop(number)
                if self._lines:
                    self._step()
        finally:  # whoever has enough leaves dialogues unfinished
            for line in self._lines:
                self._leave(line)
            self._lines.clear()

    def _fill(self) -> bool:
        """Begins dialogues while there are slots; False once all have ended and been handed out."""
        while len(self._lines) < self._engine.limits.slots:
            begun = next(self._conversations, None)
            if begun is None:
                break
            number, dialogue = begun
            self._order.append(number)
            self._go_on(number, dialogue, None)
        return bool(self._lines or self._order)

    def _go_on(self, number: int, dialogue: Dialogue, line: _Line | None) -> None:
        """Hears what a dialogue wants next, after what was written for it on its line, if anything."""
        try:
            wanted = next(dialogue) if line is None else dialogue.send(tuple(line.written))
        except StopIteration as ended:
            self._ended[number] = ended.value
        except InvalidRequest:
            self._ended[number] = ()  # the template refuses what would be said
        else:
            epoch = 1 if line is None else line.epoch + 1
            held = 0 if line is None else _common(line.opened.slot.tokens, wanted.prompt)
            opened = self._engine.open(str(number), epoch, held, wanted.draw)
            self._lines.append(_Line(number, dialogue, wanted, opened, epoch))

    def _step(self) -> None:
        """Decides a token for each line, and goes on with those whose text has ended."""
        engine = self._engine
        jobs = [line.job(engine) for line in self._lines]
        work = [_read(engine, job) for job in jobs]
        rows = [
            (job.slot, each.start_position, each.tokens)
            for job, each in zip(jobs, work, strict=True)
        ]
        result = engine.decide(rows)
        for line, job, each, row in zip(self._lines, jobs, work, result.rows, strict=True):
            job.take(each, row, len(rows), result.seconds)
            line.written.append(_decided(job))
        ended = [line for line in self._lines if line.is_ended]
        self._lines = [line for line in self._lines if not line.is_ended]
        for line in ended:
            self._go_on(line.number, line.dialogue, line)
            if line.number in self._ended:
                self._leave(line)

    def _leave(self, line: _Line) -> None:
        """Gives up the line's slot."""
        self._engine.table.close(line.opened.slot, line.opened.opening)
        self._engine.release(str(line.number), line.epoch)


def _read(engine: Engine, job: VerifyJob) -> Work:
    """Reads all that stands before the last token; returns the row that decides after that one."""
    while (work := job.work()).prefill:
        job.take(work, None, 1, engine.prefill(job.slot, work.start_position, work.tokens))
    return work


def _decided(job: VerifyJob) -> int:
    try:
        return job.outcome.result().verdict.tokens[0]
    except OutriderError as error:
        raise StartupError(str(error)) from error


def _common(held: list[int], tokens: tuple[int, ...]) -> int:
    """How many tokens both begin with; one less than `tokens` at most, as the last decides what follows."""
    most = min(len(held), len(tokens) - 1)
    return next((index for index in range(most) if held[index] != tokens[index]), most)
