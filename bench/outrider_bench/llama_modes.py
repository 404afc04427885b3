"""llama.cpp's ways to guess, as its option `--spec-type` names them: those that compete with `auto`.

With a draft model: alone, and after each kind of n-grams, which llama.cpp asks first. Without: n-grams alone.
Its own settings of n-grams wait for long repeats; each kind competes with shorter ones too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DRAFT = "draft-simple"
DRAFT_GUESSES = (3, 5, 8, 16)
CHAINED_GUESSES = (3, 8)
NGRAMS: dict[str, tuple[dict[str, int], ...]] = {
    "ngram-mod": (
        {},
        {"--spec-ngram-mod-n-match": 8, "--spec-ngram-mod-n-min": 4, "--spec-ngram-mod-n-max": 16},
    ),
    "ngram-map-k": ({}, {"--spec-ngram-map-k-size-n": 4, "--spec-ngram-map-k-size-m": 16}),
}
"""Settings by kind, the first being llama.cpp's own."""


@dataclass(frozen=True, slots=True)
class LlamaMode:
    """One way to guess. `types` empty is none; `guesses` is the draft model's most."""

    name: str
    types: tuple[str, ...] = ()
    guesses: int = 0
    settings: dict[str, int] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """For the server's command line, but for the draft's file and threads."""
        if not self.types:
            return []
        words = ["--spec-type", ",".join(self.types)]
        if self.guesses:
            words += ["--spec-draft-n-max", str(self.guesses), "--spec-draft-n-min", "0"]
            words += ["--spec-draft-p-min", "0"]
        for option, value in self.settings.items():
            words += [option, str(value)]
        return words

    @property
    def details(self) -> dict[str, str]:
        """What tells it from other settings of its name, for the table."""
        told = {"guesses": str(self.guesses)} if self.guesses else {}
        if set(self.types) & NGRAMS.keys():
            told["n-grams"] = " ".join(map(str, self.settings.values())) or "as llama.cpp sets them"
        return told


def llama_modes(with_draft: bool) -> list[list[LlamaMode]]:
    """Every mode: inner lists are settings of one mode, the fastest of which competes."""
    modes = [[LlamaMode("plain")]]
    if with_draft:
        modes += [[LlamaMode(f"draft {count}", (DRAFT,), count)] for count in DRAFT_GUESSES]
        modes += [
            [
                LlamaMode(f"draft, {kind}", (DRAFT, kind), count, settings)
                for settings in several
                for count in CHAINED_GUESSES
            ]
            for kind, several in NGRAMS.items()
        ]
    modes += [
        [LlamaMode(kind, (kind,), settings=settings) for settings in several]
        for kind, several in NGRAMS.items()
    ]
    return modes
