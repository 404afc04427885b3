"""A distillation from start to end: each stage goes on where an earlier run left it."""

from __future__ import annotations

import time
from dataclasses import replace

from ..core.progress import Progress, Report
from ..core.surroundings import Clock
from ..engine.starting import Start
from .display import Advance, Display
from .reply_file import ReplyFile, read_given
from .replying import write_replies
from .settings import DistillSettings
from .target import build_target, reply_rules
from .work_folder import WorkFolder, held_folder

REPLIES = "replies.jsonl"
SECONDS_AN_HOUR = 3600.0


def run_distill(
    settings: DistillSettings, start: Start, display: Display, clock: Clock = time.monotonic
) -> None:
    """Makes the draft, or as much of it as is asked for. Raises StartupError; what was made is kept."""
    with held_folder(settings.output) as folder:
        folder.begin(settings.of_replies())
        start = replace(start, tell=_shown(display))
        write_all_replies(settings, folder, start, display, clock)


def write_all_replies(
    settings: DistillSettings,
    folder: WorkFolder,
    start: Start,
    display: Display,
    clock: Clock,
) -> ReplyFile:
    """The first stage. Raises StartupError."""
    began = clock()
    engine = build_target(settings.engine, start)
    rules = reply_rules(engine, settings)
    file = ReplyFile(folder.path / REPLIES)
    file.begin(read_given(settings.replies, engine.loaded.vocabulary_size))
    hours = settings.hours

    def is_over() -> bool:
        return hours is not None and clock() - began >= hours * SECONDS_AN_HOUR

    if settings.tokens is None or file.written.tokens < settings.tokens:
        write_replies(engine, rules, settings, file, is_over, display, clock)
    written = file.written
    display.say(
        f"{written.replies:,} replies of {written.tokens:,} tokens in {folder.path / REPLIES}"
    )
    return file


def _shown(display: Display) -> Progress:
    """Shows what the engine does while it starts."""

    def tell(report: Report) -> None:
        display.show(Advance(report.stage.value))

    return tell
