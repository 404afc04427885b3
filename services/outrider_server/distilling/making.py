"""The last stage: a student of the target's, its training, and the folder that is served."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from ..core.errors import StartupError
from ..core.surroundings import Clock
from ..engine.engine import Engine
from ..engine.model.hub import local_folder
from ..engine.model.loading import LoadedModel
from ..engine.options import EngineOptions
from ..engine.starting import Start
from ..host.building import engine_builder
from .batches import split_replies
from .card import CardFacts, SourceCount, count_sources, write_card
from .disk import write_json
from .display import Display
from .draft_vocabulary import DraftVocabulary, choose_vocabulary
from .export import put_in_place, write_draft
from .judging import HeldOut
from .learner import Learner
from .objectives import OBJECTIVES
from .plan_file import SECONDS_AN_HOUR, PlanFile
from .reply import Reply
from .scores import ScoredReplies
from .settings import DistillSettings
from .speed import expected_speed, step_ms
from .student import build_student
from .training import Lessons, Trainer
from .work_folder import WorkFolder

TRAINING, MADE, TIMED, FIXED = "training", "made", "timed", "fixed.json"
TRIED_STEPS = 5
"""So many steps, which are then forgotten, say how many fit into the time that is left."""
MOST_PASSES = 30
CONTEXT_FOR_TIMING = 256


class DraftMaker:
    """Makes a draft of what the target wrote and said of it."""

    def __init__(
        self,
        settings: DistillSettings,
        folder: WorkFolder,
        plan: PlanFile,
        start: Start,
        display: Display,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._plan = plan
        self._start = start
        self._display = display
        self._clock = clock
        self._draft_ms = 0.0

    def make(self, target: LoadedModel, scored: ScoredReplies, replies: Iterable[Reply]) -> None:
        """Trains, and writes the folder. Raises StartupError."""
        training = self._folder.part(TRAINING, self._settings.of_training())
        lessons = self._lessons(target, scored)
        last = int(target.model.config.num_hidden_layers) - 1
        layers = self._settings.layers or tuple(dict.fromkeys((0, last)))
        torch.manual_seed(self._settings.seed)
        path = training / FIXED
        if not path.exists():
            self._draft_ms = self._time_draft(target, lessons.vocabulary, layers)
            steps = self._steps(target, lessons, layers)
            write_json(path, {"steps": steps, "draft_ms": self._draft_ms})
        fixed = json.loads(path.read_bytes())
        self._draft_ms = float(fixed["draft_ms"])
        learner = self._learner(target, lessons, layers, int(fixed["steps"]))
        trainer = Trainer(learner, lessons, training, self._display, self._clock)
        trainer.train(self._said)
        assert trainer.best is not None, "it was trained"
        facts = self._facts(target, lessons, layers, count_sources(replies), learner, trainer.best)
        self._write(
            target, learner, lessons.vocabulary, write_card(replace(facts, first=trainer.first))
        )
        self._display.say(f"{self._settings.output} is ready: {self._said(trainer.best)}")

    def _lessons(self, target: LoadedModel, scored: ScoredReplies) -> Lessons:
        """Raises StartupError where there is too little to learn from, or the vocabulary cannot be."""
        split = split_replies(scored, self._settings.seed)
        if not len(split.learnt) or not len(split.held_out):
            raise StartupError(
                "a draft needs replies to at least two prompts to learn from; ask for more tokens"
            )
        rows = int(target.model.config.get_text_config().vocab_size)
        counts = torch.from_numpy(np.bincount(scored.tokens, minlength=rows))
        vocabulary = choose_vocabulary(
            counts,
            self._settings.vocabulary,
            target.vocabulary.tokenizer_size,
            target.end_token_ids,
        )
        return Lessons(scored, split, vocabulary, self._settings.seed)

    def _learner(
        self, target: LoadedModel, lessons: Lessons, layers: tuple[int, ...], steps: int
    ) -> Learner:
        student = build_student(target.model, layers, lessons.vocabulary)
        student.set_attn_implementation("sdpa" if student._supports_sdpa else "eager")
        student.to(torch.device(self._settings.engine.device))  # type: ignore[arg-type]
        return Learner(student, lessons.vocabulary, OBJECTIVES[self._settings.objective], steps)

    def _steps(self, target: LoadedModel, lessons: Lessons, layers: tuple[int, ...]) -> int:
        """How many steps the budget allows."""
        an_epoch = lessons.steps_an_epoch()
        if self._settings.hours is None:
            return max(1, round(self._settings.passes * an_epoch))
        learner = self._learner(target, lessons, layers, TRIED_STEPS)
        began = self._clock()
        for step, batch in zip(range(TRIED_STEPS), lessons.learnt(0), strict=False):
            learner.learn(batch, None, step)
        seconds = (self._clock() - began) / TRIED_STEPS
        left = self._settings.hours * SECONDS_AN_HOUR - self._plan.used()
        return max(1, min(int(left / seconds), MOST_PASSES * an_epoch))

    def _time_draft(
        self, target: LoadedModel, vocabulary: DraftVocabulary, layers: tuple[int, ...]
    ) -> float:
        """A step of a draft of this shape in ms, as a draft service would run it."""
        folder = self._folder.path / TIMED
        student = build_student(target.model, layers, vocabulary)
        source = local_folder(self._settings.engine.folder)
        write_draft(folder, student, vocabulary, target.dtype, source, target.tokenizer, "")
        options = EngineOptions(
            folder=folder,
            width=2,
            threads=1,
            slots=1,
            park_bytes=0,
            device=self._settings.engine.device,
            max_context_tokens=min(CONTEXT_FOR_TIMING, self._settings.engine.max_context_tokens),
        )
        engine: Engine = engine_builder(options, start=self._start)()
        torch.set_num_threads(self._settings.engine.thread_count)
        known = vocabulary.token_ids[:8].tolist()
        shutil.rmtree(folder)
        return step_ms(engine, known, self._clock)[0][1]

    def _said(self, found: HeldOut) -> str:
        return (
            f"held-out agreement {found.agreement:.3f}, same most probable token {found.same:.3f}, "
            f"{self._expected(found)}"
        )

    def _expected(self, found: HeldOut) -> str:
        return expected_speed(found.agreement, self._draft_ms, self._plan.plan.verify_ms)

    def _facts(
        self,
        target: LoadedModel,
        lessons: Lessons,
        layers: tuple[int, ...],
        sources: list[SourceCount],
        learner: Learner,
        best: HeldOut,
    ) -> CardFacts:
        return CardFacts(
            name=self._settings.output.name,
            target=target.name,
            target_fingerprint=target.model_fingerprint,
            architecture=target.architecture,
            layers=layers,
            rows=lessons.vocabulary.rows,
            target_rows=target.vocabulary.output_rows,
            parameters=learner.student.num_parameters(),
            sources=sources,
            held_out_replies=len(lessons.split.held_out),
            objective=self._settings.objective,
            steps=learner.steps,
            seed=self._settings.seed,
            command=shlex.join(["outrider-server", *sys.argv[1:]]),
            first=None,
            best=best,
            expected=self._expected(best),
        )

    def _write(
        self, target: LoadedModel, learner: Learner, vocabulary: DraftVocabulary, card: str
    ) -> None:
        made = self._folder.path / MADE
        source = local_folder(self._settings.engine.folder)
        write_draft(made, learner.student, vocabulary, target.dtype, source, target.tokenizer, card)
        put_in_place(made, self._settings.output)
