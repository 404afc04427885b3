"""The third stage: a student learns, first all positions alike, then above all those where it was refused.

What a step does depends on its number, the weights before it and the data alone, so a run that stops and goes
on from a checkpoint ends with the same weights as one that never stopped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.surroundings import Clock
from .batches import Batch, Indices, Split, all_batches, epoch_batches, load_batch
from .disk import replaced
from .display import Advance, Display
from .draft_vocabulary import DraftVocabulary
from .judging import HeldOut, judge
from .learner import Learner
from .scores import ScoredReplies

REPLAY_SHARE = 0.3
"""Of all steps, at the end: they go back to the positions where the draft was refused."""
KEPT_WEIGHT = 0.5
"""What every other position counts then, so that nothing learnt is lost."""
JUDGEMENTS = 20
"""So often the draft is judged on held-out replies."""
CHECKPOINT_SECONDS = 60.0
CHECKPOINT, BEST, REFUSED = "checkpoint.pt", "best.pt", "refused.bin"


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is learnt from, and judged by."""

    scored: ScoredReplies
    split: Split
    vocabulary: DraftVocabulary
    seed: int

    def batch(self, chosen: Indices) -> Batch:
        """The batch of some replies."""
        unknown = self.vocabulary.known
        return load_batch(self.scored, chosen, self.vocabulary.own_ids(-1), unknown)

    def lengths(self) -> Indices:
        """Tokens of each prompt and reply: [R]."""
        replies = self.scored.replies
        found: Indices = replies["prompt"].astype(np.int64) + replies["tokens"]
        return found

    def steps_an_epoch(self) -> int:
        """Steps that go through all once."""
        return len(epoch_batches(self.lengths(), self.split.learnt, self.seed, 0))

    def learnt(self, first: int) -> Iterator[Batch]:
        """Batches from a step on."""
        batches = all_batches(self.lengths(), self.split.learnt, self.seed)
        return map(self.batch, islice(batches, first, None))

    def once(self, replies: Indices) -> Iterator[Batch]:
        """Some replies once."""
        return map(self.batch, epoch_batches(self.lengths(), replies, self.seed, 0))


class Trainer:
    """Trains a student in a folder."""

    def __init__(
        self, learner: Learner, lessons: Lessons, folder: Path, display: Display, clock: Clock
    ) -> None:
        """Goes on from the folder's checkpoint, if there is one."""
        self._learner = learner
        self._lessons = lessons
        self._folder = folder
        self._display = display
        self._clock = clock
        self._step = 0
        self.first: HeldOut | None = None
        """How the student was before its first step."""
        self.best: HeldOut | None = None
        self._load()

    def train(self, note: Callable[[HeldOut], str]) -> None:
        """Runs what is left of the steps; the best weights are then the learner's.

        `note` says of figures what a reader wants to know. Raises StartupError for a disk without room.
        """
        steps = self._learner.steps
        replayed_from = steps - round(steps * REPLAY_SHARE)
        every = max(1, steps // JUDGEMENTS)
        if self.best is None:
            self.first = self._judge(note)
        saved, began, first = self._clock(), self._clock(), self._step
        refused: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        for batch in self._lessons.learnt(first):
            if self._step == steps:
                break
            if self._step >= replayed_from and refused is None:
                refused = self._refused(is_begun=self._step > replayed_from)
            weights = None if refused is None else _weights(refused, batch)
            self._learner.learn(batch, weights, self._step)
            self._step += 1
            is_judged = self._step % every == 0 or self._step == steps
            if is_judged:
                self._judge(note)
            if is_judged or self._clock() - saved >= CHECKPOINT_SECONDS:
                self._save()
                saved = self._clock()
            rate = (self._step - first) / max(self._clock() - began, 1e-9)
            assert self.best is not None, "it was judged before its first step"
            said = f"{rate:.2f} steps/s, held-out agreement {self.best.agreement:.3f}"
            self._display.show(Advance("trains the draft", self._step, steps, said))
        self._take_best()

    def _judge(self, note: Callable[[HeldOut], str]) -> HeldOut:
        """Judges the student, and keeps its weights where it never was better."""
        found = judge(self._learner, self._lessons.once(self._lessons.split.held_out))
        self._display.say(f"step {self._step}: {note(found)}")
        if self.best is None or found.agreement > self.best.agreement:
            self.best = found
            self._write(
                BEST, {"model": self._learner.student.state_dict(), "figures": asdict(found)}
            )
        return found

    def _refused(self, is_begun: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where the student would have been refused before the replay: [N] of all positions.

        Found once, and kept for runs that go on in the middle of it.
        """
        path = self._folder / REFUSED
        if not is_begun:
            self._save()
            self._display.say("goes back to the positions where it is refused")
            refused = np.zeros(len(self._lessons.scored.positions), bool)
            for batch in self._lessons.once(self._lessons.split.learnt):
                judged = self._learner.judge(batch)
                likely = torch.where(batch.is_greedy, judged.same, judged.chances > 0.5)
                refused[batch.positions.numpy()] = ~likely.numpy()
            with replaced(path) as file:
                file.write(refused.tobytes())
        return np.fromfile(path, bool)

    def _save(self) -> None:
        first = None if self.first is None else asdict(self.first)
        self._write(CHECKPOINT, {"step": self._step, "first": first, **self._learner.state()})

    def _write(self, name: str, state: dict[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(state, content)
        with replaced(self._folder / name) as file:
            file.write(content.getbuffer())

    def _load(self) -> None:
        if not (self._folder / CHECKPOINT).exists():
            return
        state = torch.load(self._folder / CHECKPOINT, weights_only=True)
        self._learner.load(state)
        self._step = int(state["step"])
        self.first = None if state["first"] is None else HeldOut(**state["first"])
        self.best = HeldOut(**torch.load(self._folder / BEST, weights_only=True)["figures"])

    def _take_best(self) -> None:
        state = torch.load(self._folder / BEST, weights_only=True)
        self._learner.student.load_state_dict(state["model"])


def _weights(refused: np.ndarray[Any, np.dtype[np.bool_]], batch: Batch) -> torch.Tensor:
    """What each of a batch's positions counts in the replay: [N]."""
    again = torch.from_numpy(refused[batch.positions.numpy()])
    return torch.where(again, 1.0, KEPT_WEIGHT)
