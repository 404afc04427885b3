"""Prompts of files, in each form, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from outrider_server.core.errors import StartupError
from outrider_server.distilling.prompts import read_prompts

from .subjects import write_lines

USER = {"role": "user", "content": "a"}
SAID = {"role": "assistant", "content": "of another model"}
SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "a"}, [["a"]]),
        ({"turns": ["a", "b"], "question_id": 1}, [["a"], ["b"]]),
        ({"messages": [SYSTEM, USER]}, [["s", "a"]]),
        ({"messages": [USER, SAID, USER, SAID]}, [["a"], ["a"]]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, [["a"]]),
    ],
)
def test_each_form_says_what_comes_before_each_reply(
    line: object, said: list[list[str]], tmp_path: Path
) -> None:
    (prompt,) = read_prompts([write_lines(tmp_path / "prompts.jsonl", [line])])
    assert [[message.content for message in before] for before in prompt.said] == said
    assert prompt.source == "prompts.jsonl"


def test_a_line_may_name_its_source(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "prompts", [{"prompt": "a", "source": "books"}])
    assert read_prompts([path])[0].source == "books"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "it is no JSON object"),
        ({}, "it has neither a text `prompt` nor a list of `messages` or `turns`"),
        ({"prompt": 3}, "it has neither"),
        ({"prompt": " "}, "a message says nothing"),
        ({"turns": []}, "nobody says anything to the target"),
        ({"messages": [SAID]}, "nobody says anything to the target"),
        ({"messages": ["a"]}, "a message is no JSON object"),
        ({"messages": [{"role": "cook", "content": "a"}]}, "the role of a chat message must be"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_line(
    line: object, message: str, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "prompts", [{"prompt": "a"}, line])
    with pytest.raises(StartupError, match=f"prompts, line 2: {message}"):
        read_prompts([path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompts"),
        (b"\n\n", "holds no prompts"),
        (b"\xff", "are not UTF-8"),
        (b"{", "line 1: it is no JSON"),
    ],
)
def test_a_file_without_prompts_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_bytes(content)
    with pytest.raises(StartupError, match=message):
        read_prompts([path])
