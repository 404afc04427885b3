"""What the peers and their modes are called, and which of them a run leaves out."""

from __future__ import annotations

from outrider_server.core.errors import require

from .llama_modes import llama_modes

ASSISTED = (3, 5, 8)
"""Tokens that the library's assistant guesses."""
TRANSFORMERS = (
    "plain",
    *(f"assisted {guesses}" for guesses in ASSISTED),
    "lookup",
    "static compiled",
)
OPENVINO = ("plain", "draft", "lookup")


def every_name() -> list[str]:
    """Every mode of every peer, by its whole name."""
    llama = [modes[0].name for modes in llama_modes(with_draft=True)]
    modes = {"transformers": TRANSFORMERS, "llama.cpp": llama, "openvino": OPENVINO}
    return [f"{peer} {mode}" for peer, several in modes.items() for mode in several]


def check_without(without: tuple[str, ...]) -> None:
    """Raises StartupError for words that no name begins with."""
    names = every_name()
    for words in without:
        require(
            any(begins_with(name, words) for name in names),
            f"there is no peer {words} to leave out; there are {', '.join(names)}",
        )


def begins_with(name: str, words: str) -> bool:
    """Whether a name is these words, or goes on after them."""
    return f"{name} ".startswith(f"{words} ")
