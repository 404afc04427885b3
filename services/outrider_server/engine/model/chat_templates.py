"""A model folder's chat templates: which files hold them, and which of several is for what.

They are read as transformers reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.errors import ModelRefused
from .checkpoint import read_json

TEMPLATE_FILE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"
PROCESSOR_TEMPLATE = "chat_template.json"
DEFAULT, WITH_TOOLS = "default", "tool_use"


def read_chat_templates(folder: Path, tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """The templates by name, most often a `default` alone; none where the model has none.

    Files of their own come before what the tokenizer's configuration holds, and that before the file
    that some older models of several kinds of input have. Raises ModelRefused for a file without UTF-8.
    """
    files = {path.stem: path for path in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))}
    if (folder / TEMPLATE_FILE).is_file():
        files[DEFAULT] = folder / TEMPLATE_FILE
    if files:
        return {name: _read(path) for name, path in files.items()}
    configured = tokenizer_config.get("chat_template")
    return _named(configured or read_json(folder / PROCESSOR_TEMPLATE).get("chat_template"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelRefused(f"{path} is not UTF-8; copy it anew") from error


def _named(configured: object) -> dict[str, str]:
    """One template, or several with names: as a list of objects, or as one object."""
    if isinstance(configured, str):
        return {DEFAULT: configured}
    if isinstance(configured, list):
        entries = [entry for entry in configured if isinstance(entry, dict)]
        configured = {entry.get("name"): entry.get("template") for entry in entries}
    if not isinstance(configured, dict):
        return {}
    return {
        name: template
        for name, template in configured.items()
        if isinstance(name, str) and isinstance(template, str)
    }
