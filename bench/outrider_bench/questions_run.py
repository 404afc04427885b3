"""The benchmark `questions`: chats with questions of a file, Outrider beside its peers, category by category.

Every system answers the same prompts. A later turn follows the reply that the target alone gave before,
whatever a system said itself. Replies end where the model ends them, and are streamed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import outrider
from outrider_server.core.errors import StartupError
from outrider_server.session.text.messages import ChatMessage
from rich.console import Console

from .charts import draw_charts
from .decode import SETTLE_SECONDS, outrider_systems
from .decode_lines import OFF
from .ending import cancel_at_sigterm
from .fleet import FleetOptions, OutriderSystem, running_fleet, warm_up
from .machine import caption, machine_facts
from .models import Models, prepared_models
from .peers import running_peers
from .question_tables import chosen_notes, question_series, question_tables
from .questions import ChatTokens, Question, read_questions
from .questions_settings import CONTEXT_TOKENS, QuestionSettings
from .report import prepare_output, write_markdown, write_results
from .results import SuiteResult, count_differences, degraded_notes
from .tasks import Measurement, System, Task

SLOTS = 2
OUTRIDER = ("outrider auto", "outrider model", "outrider ngram", OFF)
CHOOSING_TOKENS = 48


async def run_questions(settings: QuestionSettings) -> int:
    """Prints the tables; returns 0 when all configurations of Outrider gave the same tokens, else 1.

    What was measured is written after each temperature. SIGTERM ends it as SIGINT does. Raises StartupError.
    """
    cancel_at_sigterm()
    prepare_output(settings.output)
    settings.peers.check_models(settings.target, settings.draft)
    questions = read_questions(settings.file, settings.per_category)
    models = prepared_models(settings.target, settings.draft, 0.0)
    result = SuiteResult("questions", notes=settings.peers.notes)
    findings = Findings(settings, models.label, questions, result)
    try:
        await _measure(settings, models, questions, result, findings.told)
    except outrider.OutriderError as error:
        raise StartupError(f"a turn failed: {error}") from error
    findings.end()
    return 1 if result.differences else 0


class Findings:
    """What is printed and written of a run, temperature by temperature."""

    def __init__(
        self,
        settings: QuestionSettings,
        label: str,
        questions: Sequence[Question],
        result: SuiteResult,
    ) -> None:
        self._output = settings.output
        self._label = label
        self._categories = {each.place: each.category for each in questions}
        self._result = result
        self._facts = machine_facts()
        self._tables: list[str] = []
        self._temperatures: list[float] = []

    def told(self, temperature: float) -> None:
        """All systems have answered at this temperature."""
        result = self._result
        self._temperatures.append(temperature)
        tables = question_tables(result.measurements, self._categories, temperature)
        print(*tables, sep="\n", flush=True)
        self._tables += tables
        result.notes += chosen_notes(result.measurements, temperature)
        result.series = question_series(result.measurements, self._categories, self._temperatures)
        self._write([])

    def end(self) -> None:
        """All have answered."""
        result = self._result
        notes = [*result.notes, f"{result.differences} differences between Outrider's own"]
        print(*notes, sep="\n", flush=True)
        self._write([*notes, "", caption(self._facts)])

    def _write(self, notes: Sequence[str]) -> None:
        write_results(self._output, [self._result], self._label, self._facts)
        write_markdown(self._output, "questions", [self._label, "", *self._tables, *notes])
        draw_charts(self._output / "charts", [self._result], self._label)


async def _measure(
    settings: QuestionSettings,
    models: Models,
    questions: Sequence[Question],
    result: SuiteResult,
    told: Callable[[float], None],
) -> None:
    """Fills the result; `told` of each temperature once it is measured."""
    report = Console(stderr=True, highlight=False).print
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
                told(temperature)
    result.notes += degraded_notes(result.measurements)


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
        await warm_up(
            system, Task("warm-up", chat.prompt([ChatMessage("user", "Hello.")]), 1, 0.0, 1)
        )
