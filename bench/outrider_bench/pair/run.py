"""A forecast from start to end: replies, times, formulas and replay, tables."""

from __future__ import annotations

from collections.abc import Sequence

import uvloop
from outrider_server.core.errors import require
from outrider_server.session.text.model import ServedModel
from rich.console import Console

from ..machine import machine_facts
from ..models import Models, prepared_models
from ..prompts import Prompts
from ..questions import ChatTokens, Question, read_questions
from ..questions_settings import CONTEXT_TOKENS
from ..report import prepare_output, write_markdown, write_results
from ..results import SuiteResult
from .asking import Answer, Asked, ask_questions, ask_texts
from .forecast import foretold
from .replied import Prompt, Reply
from .replies import ServedPair
from .settings import PairSettings, check_vocabularies
from .tables import pair_series, pair_tables
from .timing import SECONDS, timed_pair

NAME = "pair"

tell = Console(stderr=True, highlight=False).print


def run_pair(settings: PairSettings) -> int:
    """Prints the tables, and writes them and what they are made of; 0. Raises StartupError."""
    prepare_output(settings.output)
    questions = None
    if settings.questions is not None:
        questions = read_questions(settings.questions, settings.per_category)
    check_vocabularies(settings.target, settings.draft)
    models = prepared_models(settings.target, settings.draft, settings.widen)
    context = min(CONTEXT_TOKENS, models.longest)
    assert models.draft is not None, "one was named"
    result = SuiteResult(NAME)
    replies = _replies(settings, models, context, questions, result.notes)
    tell("timing both models")
    every = [reply.text for found in replies.values() for reply in found]
    timing = timed_pair(models.target, models.draft, context, _usual(every), SECONDS)
    times = uvloop.run(timing)
    forecasts = [
        forecast
        for found in replies.values()
        for forecast in foretold(found, times, settings.round_trips_ms, tell)
    ]
    result.series = pair_series(replies, times, forecasts)
    write_results(settings.output, [result], models.label, machine_facts())
    lines = [*pair_tables(replies, times, forecasts), *result.notes]
    write_markdown(settings.output, NAME, lines)
    print(*lines, sep="\n", flush=True)
    return 0


def _replies(
    settings: PairSettings,
    models: Models,
    context: int,
    questions: Sequence[Question] | None,
    notes: list[str],
) -> dict[float, list[Reply]]:
    """The replies by temperature; the engines are gone afterwards. Notes what was left out."""
    tell("loading both models")
    assert models.draft is not None, "one was named"
    pair = ServedPair(models.target, models.draft, context)
    described = ServedModel.of(pair.target.describe(), pair.target.loaded.tokenizer).description
    found = {}
    for temperature in dict.fromkeys(settings.temperatures):
        tell(f"temperature {temperature:g}: replies and guesses")

        def answer(prompts: Sequence[Prompt], temperature: float = temperature) -> list[Reply]:
            return pair.replies(prompts, temperature, settings.tokens, described.end_token_ids)

        asked = _asked(settings, models, context - settings.tokens, questions, answer)
        notes += [note for note in asked.notes if note not in notes]
        found[temperature] = asked.replies
        require(bool(asked.replies), "no prompt leaves room for a reply; ask for fewer tokens")
    return found


def _asked(
    settings: PairSettings,
    models: Models,
    longest: int,
    questions: Sequence[Question] | None,
    answer: Answer,
) -> Asked:
    """The questions, or as many bundled texts."""
    if questions is not None:
        return ask_questions(questions, ChatTokens(models.target), longest, answer)
    prompts = Prompts.of(models.target)
    texts = [prompts.take()[1] for _ in range(settings.prompts)]
    return ask_texts([text for text in texts if len(text) <= longest], answer)


def _usual(texts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The text of the median length."""
    return sorted(texts, key=len)[len(texts) // 2]
