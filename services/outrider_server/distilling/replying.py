"""The first stage: the target's replies, until there are as many as were asked for or the time is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from ..core.errors import StartupError
from ..core.surroundings import Clock
from ..engine.engine import Engine
from .assignments import Conversation, prompted, self_prompted
from .dialogue import ReplyRules, first_refusal
from .display import Advance, Display
from .prompts import read_prompts
from .reply_file import ReplyFile
from .self_prompting import check_room
from .settings import DistillSettings
from .writing import Writer

FRUITLESS = 256
"""So many conversations one after the other without a reply end a run whose target makes its prompts."""
NO_REPLIES = "the target wrote no replies; give other prompts, or a longer context"


def write_replies(
    engine: Engine,
    rules: ReplyRules,
    settings: DistillSettings,
    file: ReplyFile,
    is_enough: Callable[[], bool],
    display: Display,
    clock: Clock,
) -> None:
    """Goes on with the file until it holds enough.

    Raises StartupError where no reply can be had, or the disk has no room.
    """
    conversations = _conversations(settings, rules, file.written.conversations)
    started, before, fruitless = clock(), file.written.tokens, 0
    with closing(Writer(engine, conversations).replies()) as written:
        for number, replies in written:
            file.append(number, replies)
            fruitless = 0 if replies else fruitless + 1
            if fruitless == FRUITLESS and not settings.prompts:
                raise StartupError("the target makes no prompts that it replies to; give prompts")
            rate = (file.written.tokens - before) / max(clock() - started, 1e-9)
            note = f"{rate:,.0f} tokens/s, {file.written.replies:,} replies"
            display.show(Advance("writes replies", file.written.tokens, settings.tokens or 0, note))
            if is_enough():
                break
    if not file.written.replies:
        raise StartupError(NO_REPLIES)


def _conversations(
    settings: DistillSettings, rules: ReplyRules, first: int
) -> Iterator[Conversation]:
    """Those from number `first` on. Raises StartupError where there can be none."""
    if not settings.prompts:
        check_room(rules)
        return self_prompted(rules, settings.temperatures, first)
    prompts = read_prompts(settings.prompts)
    if refusal := first_refusal(prompts, rules):
        raise StartupError(refusal)
    return prompted(prompts, rules, settings.temperatures, first)
