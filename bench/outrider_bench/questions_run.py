"""The benchmark `questions`: chats with questions of a file, Outrider beside its peers, category by category.

Every system answers the same prompts. A later turn follows the reply that the target alone gave before,
whatever a system said itself. Replies end where the model ends them, and are streamed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import outrider
from outrider_server.core.errors import StartupError
from outrider_server.session.text.messages import ChatMessage
from rich.console import Console

from .decode import SETTLE_SECONDS, outrider_systems
from .decode_lines import OFF
from .fleet import FleetOptions, OutriderSystem, running_fleet, warm_up
from .machine import machine_facts
from .models import Models, prepared_models
from .peers import Report, running_peers
from .question_tables import question_tables
from .questions import ChatTokens, Question, read_questions
from .questions_settings import CONTEXT_TOKENS, QuestionSettings
from .report import prepare_output, write_results
from .results import SuiteResult, count_differences, degraded_notes
from .tasks import Measurement, System, Task

SLOTS = 2
OUTRIDER = ("outrider auto", "outrider model", "outrider ngram", OFF)
CHOOSING_TOKENS = 48


async def run_questions(settings: QuestionSettings) -> int:
    """Prints the tables; returns 0 when all configurations of Outrider gave the same tokens, else 1.

    Raises StartupError.
    """
    prepare_output(settings.output)
    settings.peers.check_models(settings.target, settings.draft)
    questions = read_questions(settings.file, settings.per_category)
    models = prepared_models(settings.target, settings.draft, 0.0)
    report = Console(stderr=True, highlight=False).print
    try:
        result = await _measured(settings, models, questions, report)
    except outrider.OutriderError as error:
        raise StartupError(f"a turn failed: {error}") from error
    write_results(settings.output, [result], models.label, machine_facts())
    categories = {each.place: each.category for each in questions}
    for temperature in settings.temperatures:
        print(*question_tables(result.measurements, categories, temperature), sep="\n", flush=True)
    print(*result.notes, f"{result.differences} differences between Outrider's own", sep="\n")
    return 1 if result.differences else 0


async def _measured(
    settings: QuestionSettings, models: Models, questions: Sequence[Question], report: Report
) -> SuiteResult:
    result = SuiteResult("questions")
    chat = ChatTokens(models.target)
    options = FleetOptions(
        models.target,
        models.draft,
        slots=SLOTS,
        context=min(CONTEXT_TOKENS, models.longest),
        engine_options=settings.peers.weights.options,
    )
    report("starting the services")
    async with running_fleet(options) as fleet, outrider.AsyncClient(fleet.address) as client:
        every = outrider_systems(client, models.draft is not None)
        ours = [system for system in every if system.name in OUTRIDER]
        await _warm(ours, chat)
        async with running_peers(
            settings.peers, models, options.context, report, colocated=False
        ) as peers:
            for temperature in settings.temperatures:
                first = chat.prompt([ChatMessage("user", questions[0].turns[0])])
                choosing = Task("choosing", first, CHOOSING_TOKENS, temperature, seed=1)
                systems: list[System] = [*ours]
                systems += [await peer.fastest(choosing) for peer in peers]
                asked = Asked(chat, systems, settings.tokens, temperature, options.context)
                for index, question in enumerate(questions):
                    result.measurements += await asked.answers(question, index)
                    report(f"temperature {temperature:g}: {index + 1} of {len(questions)}")
                result.notes += asked.notes
    result.differences = count_differences(result.measurements)
    result.notes += degraded_notes(result.measurements)
    return result


class Asked:
    """Asks all systems the turns of one question after the other, at one temperature."""

    def __init__(
        self,
        chat: ChatTokens,
        systems: Sequence[System],
        tokens: int,
        temperature: float,
        context: int,
    ) -> None:
        self._chat = chat
        self._systems = systems
        self._tokens = tokens
        self._temperature = temperature
        self._context = context
        self.notes: list[str] = []

    async def answers(self, question: Question, index: int) -> list[Measurement]:
        """Every system's answers; turns that the context does not hold are left out, and noted."""
        messages: list[ChatMessage] = []
        found: list[Measurement] = []
        for turn, text in enumerate(question.turns):
            messages.append(ChatMessage("user", text))
            prompt = self._chat.prompt(messages)
            name = question.at(turn)
            if len(prompt) + self._tokens > self._context:
                self.notes.append(f"{name} has {len(prompt)} tokens, too many: left out")
                break
            task = Task(name, prompt, self._tokens, self._temperature, index + 1, chat=True)
            replies = {}
            for system in random.Random(index).sample(self._systems, len(self._systems)):
                await asyncio.sleep(SETTLE_SECONDS)
                replies[system.name] = await system.run(task)
            found += [Measurement(name, task, outcome) for name, outcome in replies.items()]
            messages.append(ChatMessage("assistant", self._chat.text(replies[OFF].tokens)))
        return found


async def _warm(systems: Sequence[OutriderSystem], chat: ChatTokens) -> None:
    for system in systems:
        await warm_up(system, Task("warm-up", chat.prompt([ChatMessage("user", "Hello.")]), 1, 0.0, 1))
