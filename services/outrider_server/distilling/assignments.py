"""Which conversation comes when, at which temperature: a plain function of its number and the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from .dialogue import Dialogue, ReplyRules, converse
from .prompts import Prompt
from .self_prompting import ask_itself, begin_text, user_turn

Conversation = tuple[int, Dialogue]
"""Its number, and what it asks of the target."""


def prompted(
    prompts: Sequence[Prompt], rules: ReplyRules, temperatures: Sequence[float], first: int
) -> Iterator[Conversation]:
    """Conversations with given prompts, from number `first` on.

    They are gone through again and again, in another order each time; after as many passes as there are
    temperatures each prompt has had every one. Greedy replies would then be the same again: they are left
    out from there on, so that where all are greedy there is an end.
    """
    for assignment in _assignments(len(prompts), temperatures, rules.seed):
        if assignment.number >= first:
            prompt, temperature = prompts[assignment.prompt], assignment.temperature
            dialogue = converse(prompt, rules, temperature, assignment.number)
            yield assignment.number, dialogue


@dataclass(frozen=True, slots=True)
class _Assignment:
    number: int
    prompt: int
    temperature: float


def _assignments(prompts: int, temperatures: Sequence[float], seed: int) -> Iterator[_Assignment]:
    number = passed = 0
    while passed < len(temperatures) or any(temperatures):
        order = list(range(prompts))
        random.Random(f"{seed} {passed}").shuffle(order)
        for prompt in order:
            temperature = temperatures[(prompt + passed) % len(temperatures)]
            if temperature or passed < len(temperatures):
                yield _Assignment(number, prompt, temperature)
            number += 1
        passed += 1


def self_prompted(
    rules: ReplyRules, temperatures: Sequence[float], first: int
) -> Iterator[Conversation]:
    """Conversations that the target begins itself, from number `first` on, without end.

    Raises StartupError where its chat template does not let it.
    """
    turn = user_turn(rules) if rules.is_chat else None
    for number in count(first):
        temperature = temperatures[number % len(temperatures)]
        if turn is None:
            yield number, begin_text(rules, temperature, number)
        else:
            yield number, ask_itself(turn, rules, temperature, number)
