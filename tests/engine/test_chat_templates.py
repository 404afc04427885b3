"""Chat templates are found where transformers finds them, and read as UTF-8 whatever the locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.model.chat_templates import read_chat_templates
from outrider_server.engine.model.tokenizer_files import read_tokenizer
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

NAMED = [
    {"name": "default", "template": "default of the list"},
    {"name": "tool_use", "template": "tools of the list"},
    {"name": "rag", "template": "documents"},
]
CONFIG, FILE, PROCESSOR = "tokenizer_config.json", "chat_template.jinja", "chat_template.json"
TOOL_FILE = "additional_chat_templates/tool_use.jinja"
FOLDERS: dict[str, dict[str, Any]] = {
    "none": {},
    "one in the configuration": {CONFIG: {"chat_template": "configured"}},
    "several in the configuration": {CONFIG: {"chat_template": NAMED}},
    "several without a default": {CONFIG: {"chat_template": NAMED[1:]}},
    "a file": {FILE: "in a \u4e2d file\r\n", CONFIG: {"chat_template": "configured"}},
    "a file and more": {FILE: "file", TOOL_FILE: "tools", CONFIG: {"chat_template": NAMED}},
    "more alone": {TOOL_FILE: "tools", CONFIG: {"chat_template": "configured"}},
}


def folder_of(path: Path, files: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(path / "tokenizer.json"))
    general = {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"} | files.get(CONFIG, {})}
    for name, content in (files | general).items():
        (path / name).parent.mkdir(exist_ok=True)
        written = content if isinstance(content, str) else json.dumps(content)
        (path / name).write_bytes(written.encode())
    return path


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS.keys())
def test_templates_are_those_that_transformers_finds(tmp_path: Path, files: dict[str, Any]) -> None:
    folder = folder_of(tmp_path / "model", files)
    expected = AutoTokenizer.from_pretrained(folder).chat_template
    if not isinstance(expected, dict):
        expected = {"default": expected}
    found = read_tokenizer(folder)
    assert found.chat_template == (expected.get("default") or "")
    assert found.tool_chat_template == expected.get("tool_use", "")


def test_a_template_of_an_older_processor_is_found(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", {PROCESSOR: {"chat_template": "of the processor"}})
    assert read_tokenizer(folder).chat_template == "of the processor"
    folder = folder_of(tmp_path / "model", {CONFIG: {"chat_template": "configured"}})
    assert read_tokenizer(folder).chat_template == "configured"


@pytest.mark.parametrize("configured", [5, [5], ["x"], [{"name": "default"}], {"default": 5}, [{}]])
def test_what_is_no_template_is_none(tmp_path: Path, configured: object) -> None:
    assert read_chat_templates(tmp_path, {"chat_template": configured}).get("default") is None


def test_a_template_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(ModelRefused, match=r"chat_template\.jinja is not UTF-8"):
        read_chat_templates(tmp_path, {})


def test_the_locale_changes_no_template(tmp_path: Path) -> None:
    """ASCII is what the locale C has without the UTF-8 mode; Latin-1 would garble in silence."""
    folder = folder_of(tmp_path / "model", {FILE: "<\uff5cUser\uff5c>"})
    program = (
        "import locale, pathlib, sys\n"
        "from outrider_server.engine.model.chat_templates import read_chat_templates\n"
        "assert locale.getpreferredencoding(False).lower() not in ('utf-8', 'utf8')\n"
        "print(ascii(read_chat_templates(pathlib.Path(sys.argv[1]), {})))\n"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shown = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == ascii({"default": "<\uff5cUser\uff5c>"})
