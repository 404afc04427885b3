"""What a session service has to hold and answer, as plain lists: the model of `test_session_machine.py`.

Knows no service. What a turn generates is given to it; the rest follows from what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Asked:
    """What the tokens of a turn depend on, beside the tokens before it."""

    prompt: tuple[int, ...]
    seed: int
    max_new_tokens: int
    stop: tuple[str, ...]

    def differs_from(self, other: Asked) -> list[str]:
        """Names of what is not the same, as the service names them."""
        names = {
            "input": self.prompt != other.prompt,
            "max_new_tokens": self.max_new_tokens != other.max_new_tokens,
            "seed": self.seed != other.seed,
            "stop": self.stop != other.stop,
        }
        return [name for name, differs in names.items() if differs]


@dataclass(frozen=True)
class ModelTurn:
    """A turn as the service must tell it."""

    request_id: str
    asked: Asked
    start: int
    """Position of its first prompt token."""
    generated: tuple[int, ...]
    finish_reason: str
    held_prompt: tuple[int, ...]
    """What is left of its prompt."""

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.start + len(self.held_prompt) + len(self.generated)

    def cut(self, position: int) -> ModelTurn:
        """The turn when its session ends at `position`, which is inside it."""
        generated = max(0, position - self.start - len(self.held_prompt))
        return replace(
            self,
            held_prompt=self.held_prompt[: position - self.start],
            generated=self.generated[:generated],
            finish_reason="cancelled",
        )

    def differs_from(self, asked: Asked) -> list[str]:
        """What is not as asked; a prompt that was cut is another one."""
        held = replace(self.asked, prompt=self.held_prompt)
        return asked.differs_from(held)


@dataclass
class ModelSession:
    """A session as the service must describe it."""

    tokens: list[int] = field(default_factory=list)
    turns: list[ModelTurn] = field(default_factory=list)
    taken_back: set[str] = field(default_factory=set)
    """Request ids of turns that a rewind dropped."""
    last: ModelTurn | None = None
    """What the handle of the session regenerates."""

    def turn(self, request_id: str) -> ModelTurn | None:
        """The turn of that id, where the session still has one."""
        return next((turn for turn in self.turns if turn.request_id == request_id), None)

    def add(
        self, request_id: str, asked: Asked, generated: tuple[int, ...], finish_reason: str
    ) -> ModelTurn:
        """A turn was run to its end."""
        turn = ModelTurn(
            request_id, asked, len(self.tokens), generated, finish_reason, asked.prompt
        )
        self.turns.append(turn)
        self.tokens += (*asked.prompt, *generated)
        self.last = turn
        return turn

    def rewind(self, position: int) -> None:
        """Everything from the position on is gone, but the ids of its turns stay used."""
        dropped = [turn for turn in self.turns if turn.start >= position]
        self.taken_back |= {turn.request_id for turn in dropped}
        self._keep(position)

    def fork(self, position: int) -> ModelSession:
        """The copy. Its turns have ids of their own, which nobody knows."""
        turns = [replace(turn, request_id=f"copy of {turn.start}") for turn in self.turns]
        copy = ModelSession(list(self.tokens), turns)
        copy._keep(position)
        return copy

    def _keep(self, position: int) -> None:
        del self.tokens[position:]
        self.turns = [
            turn if turn.end <= position else turn.cut(position)
            for turn in self.turns
            if turn.start < position
        ]
