"""Runs what the suite has not run yet, and writes docs/conformance.md: `python -m tests.conformance`.

Results are kept in docs/conformance.json after each run, so that an ended one goes on where it was; what is
missing stands as "not run" on the page. With names only these architectures are run, whether kept or not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.utils import logging as library_logging

sys.path.insert(0, str(Path(__file__).parents[1]))

from .architectures import FROM_GGUF, REFUSED, SERVED, Architecture
from .outcome import Outcome, find_outcome
from .page import PAGE, write_page
from .refusing import refusal
from .results import Results, counts, make_result, read_results, write_results
from .subject import SETTINGS, Setting, save_model

HALVES = {"eager": "off", "recorded": "on"}


def parse_arguments() -> argparse.Namespace:
    """What to run."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    known = list(dict.fromkeys(each.name for each in (*SERVED, *FROM_GGUF)))
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--only", choices=HALVES, help="run this half only")
    parser.add_argument("--dtype", choices=sorted({setting.dtype for setting in SETTINGS}))
    parser.add_argument("--again", action="store_true", help="run what is kept already, too")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in known:
            parser.error(f"{name!r} is none of {', '.join(known)}")
    return chosen


def wanted(chosen: argparse.Namespace, kept: Results) -> Iterator[tuple[Architecture, Setting]]:
    """What is to be run: eager ones first."""
    again = chosen.again or bool(chosen.names)
    for setting in sorted(SETTINGS, key=lambda each: each.compile_mode):
        if chosen.only and setting.compile_mode != HALVES[chosen.only]:
            continue
        if chosen.dtype not in (None, setting.dtype):
            continue
        for architecture in setting.served:
            if chosen.names and architecture.name not in chosen.names:
                continue
            if again or not counts(kept.get((architecture.name, setting.name)), architecture):
                yield architecture, setting


def run(architecture: Architecture, setting: Setting) -> Outcome | None:
    """All checks; None where they could not be run."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            save_model(architecture, Path(folder))
            return asyncio.run(find_outcome(architecture, Path(folder), setting))
    except Exception:
        traceback.print_exc()
        return None
    finally:
        torch.compiler.reset()


def run_refused() -> list[tuple[str, str]]:
    """What the engine says of each model that it refuses."""
    sentences = []
    for refused in REFUSED:
        with tempfile.TemporaryDirectory() as folder:
            sentence = refusal(refused, Path(folder))
            sentences.append((refused.name, sentence.replace(folder, "DIR")))
    return sentences


def main() -> None:
    """Exits 1 where something is wrong."""
    chosen = parse_arguments()
    torch.set_num_threads(1)
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    refused = run_refused()
    known = {architecture.name: architecture for architecture in (*SERVED, *FROM_GGUF)}
    kept = {
        key: result
        for key, result in read_results().items()
        if key[0] in known and counts(result, known[key[0]])
    }
    PAGE.write_text(write_page(kept, refused))
    all_good = True
    for architecture, setting in list(wanted(chosen, kept)):
        outcome = run(architecture, setting)
        verdict = "NOT RUN" if outcome is None else "good" if outcome.good else "WRONG"
        all_good &= verdict == "good"
        print(f"{architecture.name}, {setting.name}: {verdict}", flush=True)
        if outcome is not None:
            result = make_result(architecture, setting, outcome)
            kept[architecture.name, setting.name] = result
            write_results(kept)
            PAGE.write_text(write_page(kept, refused))
    sys.exit(0 if all_good else 1)


if __name__ == "__main__":
    main()
