"""Prompts that never repeat: a system that remembered an earlier one would win what a user never gets."""

from __future__ import annotations

from pathlib import Path

from outrider_server.core.errors import StartupError
from outrider_server.engine.model.opening import open_checkpoint
from outrider_server.models import held_out_prompts
from tokenizers import Tokenizer

SHIFT = 16
"""Tokens dropped from the front of a text each time the texts have all been used."""
SHORTEST = 24


class Prompts:
    """Hands out token prompts of the held-out texts, none of them twice."""

    def __init__(self, encoded: list[tuple[int, ...]]) -> None:
        if not encoded:
            raise ValueError("prompts need texts")
        self._encoded = encoded
        self._next = 0
        self._next_short = 0

    @classmethod
    def of(cls, model: Path) -> Prompts:
        """The bundled texts in the tokens of a model, a folder or GGUF file. Raises StartupError."""
        files = open_checkpoint(model).tokenizer()
        tokenizer = Tokenizer.from_str(files.tokenizer_json.decode())
        return cls([tuple(tokenizer.encode(text).ids) for text in held_out_prompts()])

    def again(self) -> Prompts:
        """These prompts from the first on, for measurements that are to differ in nothing else."""
        return Prompts(self._encoded)

    def take(self) -> tuple[str, tuple[int, ...]]:
        """The next prompt and its name. Raises StartupError when all texts are used up."""
        for _ in range(len(self._encoded)):
            lap, index = divmod(self._next, len(self._encoded))
            self._next += 1
            tokens = self._encoded[index][lap * SHIFT :]
            if len(tokens) >= SHORTEST:
                return f"text {index}" + (f" from {lap * SHIFT}" if lap else ""), tokens
        raise StartupError("the benchmark has no more prompts; ask for fewer repeats")

    def take_long(self, length: int) -> tuple[str, tuple[int, ...]]:
        """A prompt of exactly `length` tokens: texts one after the other, the first one never used before."""
        name, tokens = self.take()
        start = self._next
        joined = list(tokens)
        while len(joined) < length:
            joined += self._encoded[start % len(self._encoded)]
            start += 1
        return f"{name}, {length} tokens", tuple(joined[:length])

    def take_short(self, length: int) -> tuple[int, ...]:
        """A prompt of `length` tokens from the middle of a text; thousands of them before one comes again."""
        start, index = divmod(self._next_short, len(self._encoded))
        self._next_short += 1
        tokens = self._encoded[index]
        start %= len(tokens)
        return (tokens[start:] + tokens)[:length]
