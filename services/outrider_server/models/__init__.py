"""The bundled model pair: where its folders are, and prompts that it never trained on.

Standard library only, so that anything may import it.
"""

import json
from pathlib import Path

__all__ = ["DRAFT_FOLDER", "TARGET_FOLDER", "held_out_prompts"]

_FOLDER = Path(__file__).resolve().parent

TARGET_FOLDER = _FOLDER / "target"
"""The target, a complete local transformers folder."""

DRAFT_FOLDER = _FOLDER / "draft"
"""The draft, with the same tokenizer files as the target."""


def held_out_prompts() -> list[str]:
    """Return the 64 bundled prompts: beginnings of Python source, 100 to 250 tokens each."""
    lines = (_FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]
