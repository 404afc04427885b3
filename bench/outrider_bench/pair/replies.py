"""The target's replies to prompts, and the draft's guesses of them: forward passes of both engines, here.

Replies are drawn as a turn's are. The draft reads each as it stands, which gives the guesses that it would
make: a guess counts only where all before it agreed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from outrider_server.core.errors import StartupError
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.distilling.agreement import agreement_chances
from outrider_server.engine.engine import Engine, OpenedSlot
from outrider_server.engine.layout import NOT_FINITE, Row
from torch.nn import functional

from .engines import built, options_of
from .replied import Prompt, Reply

NEVER = -1e4
"""A logit so far below the others that its token is never drawn."""

Place = tuple[int, tuple[int, ...]]
"""Where tokens of a text are read: the first one's position, and the tokens."""


class ServedPair:
    """Both engines. Not thread-safe."""

    def __init__(self, target: Path, draft: Path, context: int) -> None:
        """Raises StartupError."""
        options = options_of("target", target, context)
        # Rows as long as the target's: in service they are short because a draft guesses one by one.
        short = options_of("draft", draft, context)
        self.draft = built(replace(short, width=options.width, threads=options.threads))
        self.target = built(options)

    def replies(
        self, prompts: Sequence[Prompt], temperature: float, most: int, ends: Collection[int]
    ) -> list[Reply]:
        """A reply to each prompt: of at most `most` tokens, or up to the first that is one of `ends`.

        Raises StartupError for logits that are no numbers.
        """
        slots, found = self.target.limits.slots, []
        for begin in range(0, len(prompts), slots):
            found += self._batch(prompts[begin : begin + slots], temperature, most, ends)
        return found

    def _batch(
        self, prompts: Sequence[Prompt], temperature: float, most: int, ends: Collection[int]
    ) -> list[Reply]:
        size = self.target.loaded.vocabulary_size
        at_target = [_opened(self.target, prompt, temperature, size) for prompt in prompts]
        at_draft = [_opened(self.draft, prompt, temperature, size) for prompt in prompts]
        replies = _decoded(self.target, at_target, prompts, most, ends)
        guesses: list[list[int]] = [[] for _ in prompts]
        chances: list[list[float]] = [[] for _ in prompts]
        for places in _lockstep(prompts, replies, self.target.limits.width):
            guessed = _drawn(self.draft, at_draft, places)
            for index, drawn in guessed.items():
                guesses[index] += drawn
            if temperature:
                logits = (
                    _logits(engine, opened, places, size)
                    for engine, opened in ((self.target, at_target), (self.draft, at_draft))
                )
                both = agreement_chances(*(each / temperature for each in logits)).tolist()
                for index, (_, tokens) in places.items():
                    chances[index] += both[: len(tokens)]
                    del both[: len(tokens)]
        _close(self.target, at_target)
        _close(self.draft, at_draft)
        return [
            _reply(prompt, temperature, *parts)
            for prompt, parts in zip(
                prompts, zip(replies, guesses, chances, strict=True), strict=True
            )
        ]


def _reply(
    prompt: Prompt,
    temperature: float,
    tokens: Sequence[int],
    guesses: Sequence[int],
    chances: Sequence[float],
) -> Reply:
    """Where nothing is drawn by noise, a guess agrees always or never."""
    if not temperature:
        pairs = zip(guesses, tokens, strict=True)
        chances = [float(guess == token) for guess, token in pairs]
    return Reply(prompt, temperature, tuple(tokens), tuple(guesses), tuple(chances))


def _opened(engine: Engine, prompt: Prompt, temperature: float, vocabulary: int) -> OpenedSlot:
    """A slot that has read all of the prompt but its last token. No id that the target lacks is drawn."""
    cut = vocabulary if vocabulary < engine.loaded.vocabulary_size else None
    length, chunk = len(prompt.tokens), engine.limits.prefill_width
    draw = Draw(SamplingParams(temperature=temperature), prompt.seed, length, vocabulary_size=cut)
    opened = engine.open(prompt.name, 1, 0, draw)
    for start in range(0, length - 1, chunk):
        end = min(start + chunk, length - 1)
        engine.prefill(opened.slot, start, prompt.tokens[start:end])
    return opened


def _close(engine: Engine, slots: Sequence[OpenedSlot]) -> None:
    for opened in slots:
        engine.table.close(opened.slot, opened.opening)
        engine.release(opened.slot.session_id, 1)


def _decoded(
    engine: Engine,
    slots: Sequence[OpenedSlot],
    prompts: Sequence[Prompt],
    most: int,
    ends: Collection[int],
) -> list[list[int]]:
    """The replies, a token of each in every step."""
    replies: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    while running:
        places: dict[int, Place] = {}
        for index in running:
            prompt, reply = prompts[index].tokens, replies[index]
            places[index] = (len(prompt) + len(reply) - 1, ((*prompt[-1:], *reply)[-1],))
        for index, drawn in _drawn(engine, slots, places).items():
            replies[index] += drawn
        running = [
            index
            for index in running
            if len(replies[index]) < most and replies[index][-1] not in ends
        ]
    return replies


def _lockstep(
    prompts: Sequence[Prompt], replies: Sequence[Sequence[int]], width: int
) -> Iterator[dict[int, Place]]:
    """What is read before each token of the replies, `width` of each in a step; by the reply's index."""
    for begin in range(0, max(map(len, replies)), width):
        places = {}
        for index, reply in enumerate(replies):
            before = (*prompts[index].tokens[-1:], *reply[:-1])[begin : begin + width]
            if before:
                places[index] = (len(prompts[index].tokens) - 1 + begin, before)
        yield places


def _drawn(
    engine: Engine, slots: Sequence[OpenedSlot], places: dict[int, Place]
) -> dict[int, tuple[int, ...]]:
    """What the engine draws after each of the tokens. Raises StartupError."""
    rows = [(slots[index].slot, *place) for index, place in places.items()]
    drawn = [row.tokens for row in engine.decide(rows).rows]
    if any(NOT_FINITE in tokens for tokens in drawn):
        raise StartupError(f"{engine.loaded.name} gives logits that are no numbers")
    return dict(zip(places, drawn, strict=True))


def _logits(
    engine: Engine, slots: Sequence[OpenedSlot], places: dict[int, Place], size: int
) -> torch.Tensor:
    """The logits after each of the tokens, row after row: [tokens, size] float32."""
    rows = [
        Row(slots[index].slot.index, start, tokens, slots[index].slot.reading)
        for index, (start, tokens) in places.items()
    ]
    logits = torch.cat(engine.runner.logits(rows, engine.audit.row_buckets[-1]))
    logits = logits[:, : engine.loaded.vocabulary_size]
    return functional.pad(logits, (0, size - logits.shape[-1]), value=NEVER)
