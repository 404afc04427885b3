"""A distillation from start to end: each stage goes on where an earlier run left it."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice

import torch

from ..core.errors import StartupError
from ..core.progress import Progress, Report
from ..core.surroundings import Clock
from ..engine.engine import Engine
from ..engine.model.loading import LoadedModel, load_model
from ..engine.starting import Start
from .display import Advance, Display
from .making import DraftMaker
from .plan_file import PlanFile
from .reply_file import ReplyFile, read_given
from .replying import write_replies
from .scores import ScoreFiles
from .scoring import score_replies
from .settings import UNTIL, DistillSettings
from .speed import step_ms
from .target import build_target, reply_rules, with_context
from .work_folder import WorkFolder, held_folder

REPLIES, SCORES = "replies.jsonl", "scores"
REPLY_SHARE = 0.55
"""Of the hours that are given: to write a token takes longer than to learn from it a few times."""


def run_distill(
    settings: DistillSettings, start: Start, display: Display, clock: Clock = time.monotonic
) -> None:
    """Makes the draft, or as much of it as is asked for. Raises StartupError; what was made is kept."""
    with held_folder(settings.output) as folder:
        folder.begin(settings.of_replies())
        start = replace(start, tell=_shown(display))
        run = _Run(with_context(settings, start.tell), folder, start, display, clock)
        for stage in (run.write, run.score, run.make)[: UNTIL.index(settings.until) + 1]:
            stage()


class _Run:
    """The stages over one folder."""

    def __init__(
        self,
        settings: DistillSettings,
        folder: WorkFolder,
        start: Start,
        display: Display,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._start = start
        self._display = display
        self._clock = clock
        self._plan = PlanFile(folder.path, clock)
        self._file = ReplyFile(folder.path / REPLIES)
        self._engine: Engine | None = None

    def write(self) -> None:
        """Replies, and how fast the target steps. The rest of the run goes by what there is then."""
        settings, plan = self._settings, self._plan.plan
        if plan.replies and settings.tokens in (None, plan.reply_tokens):
            return
        engine = self._built()
        rules = reply_rules(engine, settings)
        self._file.begin(read_given(settings.replies, engine.loaded.vocabulary_size))
        if not self._is_enough():
            write_replies(
                engine, rules, settings, self._file, self._is_enough, self._display, self._clock
            )
        written = self._file.written
        path = self._folder.path / REPLIES
        self._display.say(f"{written.replies:,} replies of {written.tokens:,} tokens in {path}")
        if settings.until == UNTIL[0]:
            return
        tokens = settings.tokens or written.tokens
        learnt = sum(1 for _ in self._file.first(tokens))
        first = next(self._file.replies())
        timed = step_ms(engine, first.prompt + first.tokens, self._clock)
        self._plan.note(replies=learnt, reply_tokens=tokens, verify_ms=timed)

    def score(self) -> None:
        """The target's distributions at every position."""
        files = ScoreFiles(self._folder.path / SCORES)
        total = self._plan.plan.replies
        if files.count < total:
            replies = islice(self._file.first(self._plan.plan.reply_tokens), files.count, None)
            score_replies(self._built(), replies, files, total, self._display, self._clock)
            self._plan.note()
        self._engine = None  # the library's model takes its place

    def make(self) -> None:
        """The draft."""
        replies = self._file.first(self._plan.plan.reply_tokens)
        scored = ScoreFiles(self._folder.path / SCORES).scored(self._plan.plan.replies)
        maker = DraftMaker(
            self._settings, self._folder, self._plan, self._start, self._display, self._clock
        )
        maker.make(self._target(), scored, replies)

    def _built(self) -> Engine:
        """The target's engine, built where it is not yet."""
        if self._engine is None:
            self._engine = build_target(self._settings.engine, self._start)
            self._check_target(self._engine.loaded.model_fingerprint)
        return self._engine

    def _target(self) -> LoadedModel:
        """The library's model of the target."""
        options = self._settings.engine
        torch.set_num_threads(options.thread_count)
        device = torch.device(options.device)
        loaded = load_model(options.folder, options.dtype, device, tell=self._start.tell)
        loaded.model.set_attn_implementation("sdpa" if loaded.model._supports_sdpa else "eager")
        self._check_target(loaded.model_fingerprint)
        return loaded

    def _check_target(self, fingerprint: str) -> None:
        begun = self._plan.plan.target
        if begun not in ("", fingerprint):
            raise StartupError(
                f"{self._settings.output} was begun with another target; give that one, or another folder"
            )
        if not begun:
            self._plan.note(target=fingerprint)

    def _is_enough(self) -> bool:
        settings, written = self._settings, self._file.written
        if settings.tokens is not None:
            return written.tokens >= settings.tokens
        assert settings.hours is not None, "one of both is the budget"
        share = 1.0 if settings.until == UNTIL[0] else REPLY_SHARE
        return bool(written.replies) and self._plan.is_used(share * settings.hours)


def _shown(display: Display) -> Progress:
    """Shows what an engine does while it starts."""

    def tell(report: Report) -> None:
        display.show(Advance(report.stage.value))

    return tell
