"""The second stage: what the target says of each position of its replies.

The engine's own steps say it, which decided the replies and will decide when a draft guesses: a position's
logits are the same bits whichever replies share a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from ..core.surroundings import Clock
from ..core.types import Draw, SamplingParams, Step
from ..engine.engine import Engine, OpenedSlot
from ..engine.layout import Row
from ..engine.verifying import VerifyJob
from .display import Advance, Display
from .reply import Reply
from .scores import NO_TOKEN, POSITION, REPLY, TOP, Array, ScoreFiles, learning_temperature

DRAWS_NOTHING = Draw(SamplingParams(temperature=0.0), seed=0, generated_from=0)


@dataclass(slots=True)
class _Line:
    """A reply in its slot."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    temperature: float
    opened: OpenedSlot | None
    scored: list[Array] = field(default_factory=list)
    """[n] of POSITION, of its first tokens."""

    @property
    def done(self) -> int:
        """Tokens that are scored."""
        return sum(map(len, self.scored))

    @property
    def is_done(self) -> bool:
        """Whether all are."""
        return self.done >= len(self.tokens)


def score_replies(
    engine: Engine,
    replies: Iterable[Reply],
    files: ScoreFiles,
    total: int,
    display: Display,
    clock: Clock,
) -> None:
    """Scores replies, which follow those of the files, and adds them. Raises StartupError for a full disk."""
    began, tokens = clock(), 0
    for line in _scored_lines(engine, iter(replies)):
        record = np.array((len(line.prompt), len(line.tokens), line.temperature), REPLY)
        positions = np.concatenate([np.empty(0, POSITION), *line.scored])
        files.append(record, np.array(line.prompt + line.tokens, np.int32), positions)
        tokens += len(line.tokens)
        note = f"{tokens / max(clock() - began, 1e-9):,.0f} reply tokens/s"
        display.show(Advance("scores replies", files.count, total, note))


def _scored_lines(engine: Engine, replies: Iterator[Reply]) -> Iterator[_Line]:
    """The replies with their scores, in order; as many at once as the engine has slots."""
    lines: list[_Line] = []
    for number, reply in enumerate(replies):
        lines.append(_begin(engine, number, reply))
        while sum(not line.is_done for line in lines) == engine.limits.slots:
            _score_more(engine, lines)
        while lines and lines[0].is_done:
            yield lines.pop(0)
    while lines:
        if lines[0].is_done:
            yield lines.pop(0)
        else:
            _score_more(engine, lines)


def _begin(engine: Engine, number: int, reply: Reply) -> _Line:
    """A reply as far as the context holds it; nothing of one whose prompt fills that."""
    room = engine.limits.max_context_tokens - len(reply.prompt)
    if room <= 0:
        return _Line((), (), reply.temperature, None)
    opened = engine.open(str(number), 1, 0, DRAWS_NOTHING)
    return _Line(reply.prompt, reply.tokens[:room], reply.temperature, opened)


def _score_more(engine: Engine, lines: list[_Line]) -> None:
    """A step over all that are not done."""
    unfinished = [(line, line.opened) for line in lines if not line.is_done and line.opened]
    rows = [_row(engine, line, opened) for line, opened in unfinished]
    tokens = engine.runner.layout.tokens([len(row.tokens) for row in rows])
    width = engine.limits.width
    bucket = next(size for size in engine.audit.row_buckets if size * width >= tokens)
    logits = engine.runner.logits(rows, bucket)
    for (line, opened), row, of_row in zip(unfinished, rows, logits, strict=True):
        opened.slot.write(row.start_position, row.tokens)
        line.scored.append(best_tokens(of_row, learning_temperature(line.temperature)))
        if line.is_done:
            engine.table.close(opened.slot, opened.opening)
            engine.release(opened.slot.session_id, 1)


def _row(engine: Engine, line: _Line, opened: OpenedSlot) -> Row:
    """What is scored of a reply next, after all before it was read."""
    known = line.prompt + line.tokens[: line.done]
    guesses = line.tokens[line.done : line.done + engine.limits.width][:-1]
    start = len(opened.slot.tokens)
    job = VerifyJob(engine, opened.slot, opened.opening, Step(start, known[start:], guesses))
    while (work := job.work()).prefill:
        job.take(work, None, 1, engine.prefill(job.slot, work.start_position, work.tokens))
    return Row(opened.slot.index, work.start_position, work.tokens, opened.slot.reading)


def best_tokens(logits: torch.Tensor, temperature: float) -> Array:
    """[N, V] float32 logits -> [N] of POSITION, at a temperature above 0."""
    whole = (logits / temperature).logsumexp(-1, keepdim=True)
    best, token_ids = logits.topk(min(TOP, logits.shape[-1]))
    logprobs = best / temperature - whole
    left = (1 - logprobs.double().exp().sum(-1)).clamp_min(torch.finfo(torch.float32).tiny)
    found = np.empty(len(logits), POSITION)
    found["ids"], found["logprobs"] = NO_TOKEN, -np.inf
    found["ids"][:, : best.shape[-1]] = token_ids.cpu().numpy()
    found["logprobs"][:, : best.shape[-1]] = logprobs.cpu().numpy()
    found["rest"] = left.log().cpu().numpy()
    return found
