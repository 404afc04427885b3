"""Tiny targets that talk, and what they have said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from outrider_server.distilling.reply import Reply

from tests.models_for_tests import edit_json, save_folder

TEMPLATE = (
    "{% for message in messages %}w2 {{ message.content }} w3 {% endfor %}"
    "{% if add_generation_prompt %}w4 {% endif %}"
)
"""w2 begins what a user says, w3 ends every text, and w4 begins a reply."""
COMMON = ("--temperatures=0,1", "--reply-tokens=24", "--slots=4", "--threads=1", "--compile=off")


def talker(folder: Path) -> Path:
    """Writes a random Llama of 61 words with a chat template."""
    folder.mkdir()
    save_folder(folder)
    edit_json(folder / "tokenizer.json", pre_tokenizer={"type": "WhitespaceSplit"})
    edit_json(folder / "tokenizer_config.json", eos_token="w3", chat_template=TEMPLATE)
    return folder


def without_template(folder: Path) -> Path:
    """The same as a base model."""
    talker(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_lines(path: Path, objects: Sequence[object]) -> Path:
    """A file with a JSON object a line."""
    path.write_text("".join(json.dumps(each) + "\n" for each in objects))
    return path


def replies(count: int) -> list[Reply]:
    """Replies of any words."""
    return [
        Reply(
            "made",
            (2, 5 + index % 7, 3, 4),
            tuple(5 + (index * place) % 40 for place in range(1, 13)),
            float(index % 2),
        )
        for index in range(count)
    ]


def command(*arguments: str | Path) -> list[str]:
    """`outrider-server distill` as a process of its own."""
    return [sys.executable, "-m", "outrider_server", "distill", *map(str, arguments)]


def environment(cache: Path) -> dict[str, str]:
    """One thread for the arithmetic, and a cache of its own."""
    paths = os.pathsep.join(sys.path)
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "XDG_CACHE_HOME": str(cache)}


def run_distill(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        command(*arguments), env=environment(cache), capture_output=True, text=True, check=False
    )
