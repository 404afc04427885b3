"""What the target replied and what the draft guessed of it: the nouns of a foretold pair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the target is asked."""

    name: str
    category: str
    tokens: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The target's reply to a prompt, and what the draft guesses at each of its positions.

    A guess is made after the target's own tokens. In a round the draft reads its own guesses, but where one
    counts, all before it agreed, and are the target's tokens.
    """

    prompt: Prompt
    temperature: float
    tokens: tuple[int, ...]
    guesses: tuple[int, ...]
    """The draft's draws with the noise of the target's."""
    chances: tuple[float, ...]
    """Chance that a guess agrees, over all noise that both could have shared; greedily it is 0 or 1."""

    @property
    def agreed(self) -> tuple[bool, ...]:
        """Whether each guess is the target's token."""
        return tuple(guess == token for guess, token in zip(self.guesses, self.tokens, strict=True))

    @property
    def text(self) -> tuple[int, ...]:
        """The whole session: prompt and reply."""
        return self.prompt.tokens + self.tokens
