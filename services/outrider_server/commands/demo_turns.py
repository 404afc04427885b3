"""What the demo asks: three turns of a chat, or three pieces of Python source to go on with."""

from __future__ import annotations

from dataclasses import dataclass

import outrider

from ..models import held_out_prompts

MOST_TOKENS = 128
STORY = (
    "The harbour was quiet in the morning. The boats lay side by side, and moved a little with the water. "
    "A man came to the harbour, looked at the boats for a while, and went home again. In the evening he "
    "came back with his daughter. She asked him which of the boats was theirs, and he pointed to the "
    "smallest one."
)
"""What an answer takes words of up again, which n-grams foresee."""


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """One turn of the demo. Turns of the same session follow each other."""

    title: str
    session: str
    prompt: str
    temperature: float
    seed: int
    is_chat: bool
    max_new_tokens: int = MOST_TOKENS

    @property
    def input(self) -> outrider.Input:
        """What is sent."""
        return [outrider.ChatMessage("user", self.prompt)] if self.is_chat else self.prompt


def chat_turns() -> list[DemoTurn]:
    """A question, one that is understood by the first alone, and a text to summarise."""
    first = "What is the capital of France, and what is it famous for?"
    second = "Which of these should I see first, and why?"
    return [
        DemoTurn("greedy, turn 1", "a", first, 0.0, 1, True),
        DemoTurn("greedy, turn 2", "a", second, 0.0, 2, True),
        DemoTurn("sampled at 0.7", "b", f"Summarise:\n\n{STORY}", 0.7, 3, True),
    ]


def code_turns() -> list[DemoTurn]:
    """Two greedy turns of one session and one sampled turn, on text that the bundled pair never saw."""
    prompts = held_out_prompts()
    return [
        DemoTurn("greedy, turn 1", "a", prompts[0], 0.0, 1, False),
        DemoTurn("greedy, turn 2", "a", "\n\n\nclass Test", 0.0, 2, False),
        DemoTurn("sampled at 0.7", "b", prompts[1], 0.7, 7, False),
    ]
