"""Runs the whole suite and writes docs/conformance.md: `python -m tests.conformance [NAME...]`.

With names only these architectures are run and nothing is written. The page is written after every run, so
that one which is ended early shows what it found, and says "not run" of the rest.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.utils import logging as library_logging

from .architectures import SERVED, Architecture
from .outcome import Outcome, find_outcome
from .page import PAGE, write_page
from .refusing import all_refused, refusal
from .subject import SETTINGS, Setting, save_model


def run_served(names: list[str]) -> Iterator[tuple[Architecture, Setting, Outcome]]:
    """The named architectures, or all, in every setting: eager ones first."""
    for setting in sorted(SETTINGS, key=lambda each: each.compile_mode):
        for architecture in SERVED:
            if names and architecture.name not in names:
                continue
            with tempfile.TemporaryDirectory() as folder:
                save_model(architecture, Path(folder))
                outcome = asyncio.run(find_outcome(architecture, Path(folder), setting))
            torch.compiler.reset()
            yield architecture, setting, outcome


def run_refused() -> list[tuple[str, str]]:
    """What the engine says of each model that it refuses."""
    sentences = []
    for refused in all_refused():
        with tempfile.TemporaryDirectory() as folder:
            sentence = refusal(refused, Path(folder))
            sentences.append((refused.name, sentence.replace(folder, "DIR")))
    return sentences


def main() -> None:
    """Exits 1 where something is wrong."""
    torch.set_num_threads(1)
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    names = sys.argv[1:]
    refused = [] if names else run_refused()
    outcomes: dict[tuple[str, Setting], Outcome] = {}
    for architecture, setting, outcome in run_served(names):
        outcomes[architecture.name, setting] = outcome
        verdict = "good" if outcome.good else "WRONG"
        print(f"{architecture.name}, {setting.name}: {verdict}", flush=True)
        if not names:
            PAGE.write_text(write_page(outcomes, refused))
    sys.exit(0 if all(outcome.good for outcome in outcomes.values()) else 1)


if __name__ == "__main__":
    main()
