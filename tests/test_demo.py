"""The demo, as a newcomer runs it, and what it shows on a terminal."""

from __future__ import annotations

import asyncio
import io
import sys
from contextlib import suppress
from pathlib import Path

import outrider
import pytest
from engine.gguf_cases import bytes_that_merge
from gguf import GGUFWriter
from gguf_files import Form, write_model
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import packable_llama
from outrider.types import TokenSource
from outrider_server.commands.demo import run_demo
from outrider_server.commands.demo_screen import Figures, LiveText, folded, show_legend
from outrider_server.commands.demo_turns import DemoTurn, chat_turns, code_turns
from outrider_server.commands.pair_choice import Choice
from outrider_server.models.pair import Pair
from outrider_server.terminal_console import TerminalConsole
from rich.cells import cell_len
from rich.text import Text

TITLES = ("greedy, turn 1", "greedy, turn 2", "sampled at 0.7")
TEMPLATE = (
    "{% for message in messages %}<|begin|>{{ message.role }}\n{{ message.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


@pytest.mark.processes
async def test_the_demo_shows_that_speculation_changes_no_token() -> None:
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "outrider_server", "demo", "--bundled"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await demo.communicate()
    text = output.decode()
    assert demo.returncode == 0, text
    assert 'with draft="off" and the same seeds: the same tokens.\n' in text
    assert "marks: [] draft, {} n-grams, rest target" in text
    assert all(title in text for title in TITLES)
    assert "\x1b" not in text


@pytest.mark.processes
async def test_the_demo_holds_a_chat_with_a_model_in_a_gguf_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = bytes_that_merge("gpt-2")
    size = {"vocabulary_size": len(tokens.texts), "max_position_embeddings": 1024}

    def change(writer: GGUFWriter) -> None:
        writer.add_chat_template(TEMPLATE)

    file = tmp_path / "tiny-chat.gguf"
    write_model(packable_llama(**size), file, Form(tokens=tokens, change=change))
    assert await run_demo(Choice(Pair(file, None))) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Starting tiny-chat with n-grams as its draft ...\n")
    assert "marks: {} n-grams, rest target\n" in shown
    assert "the same tokens.\n" in shown
    for turn in chat_turns():
        assert f"> {turn.prompt}\n\n" in shown


@pytest.mark.parametrize("turns", [chat_turns(), code_turns()], ids=["chat", "code"])
def test_the_demo_has_two_greedy_turns_of_a_session_and_a_sampled_one(
    turns: list[DemoTurn],
) -> None:
    assert tuple(turn.title for turn in turns) == TITLES
    assert [turn.temperature for turn in turns] == [0.0, 0.0, 0.7]
    assert turns[0].session == turns[1].session != turns[2].session


# On a terminal


WIDTH = 20


def terminal(width: int = WIDTH) -> TerminalConsole:
    return TerminalConsole(
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard",
        width=width,
        _environ={"TERM": "xterm"},
    )


def screen(output: str) -> list[str]:
    """The lines of a narrow terminal that got this: of control sequences only what rich's displays use."""
    lines, row, column, rest = [""], 0, 0, output
    while rest:
        if rest.startswith("\x1b["):
            end = next(place for place, letter in enumerate(rest[2:]) if letter.isalpha()) + 2
            count, letter = rest[2:end], rest[end]
            assert letter in "mAK", output
            row -= int(count or 1) if letter == "A" else 0
            lines[row] = "" if letter == "K" else lines[row]
            rest = rest[end + 1 :]
            continue
        letter, rest = rest[0], rest[1:]
        if letter == "\n" or (column == WIDTH and letter != "\r"):
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        if letter == "\r":
            column = 0
        elif letter != "\n":
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
            column += 1
    return "\n".join(line.rstrip() for line in lines).rstrip("\n").split("\n")


def test_text_stays_and_figures_go_once_it_is_written() -> None:
    console = terminal()
    with LiveText(console, lambda: "so many tokens") as text:
        text.write("> ask\n\n", "dim")
        for word in ("One ", "two ", "three ", "four ", "five ", "six.\n", "Se", "ven"):
            text.write(word, "bold")
        assert "so many tokens" in screen(console.file.getvalue())
    assert screen(console.file.getvalue()) == [
        *("> ask", "", "One two three four", "five six.", "Seven")
    ]


def test_a_line_that_is_just_full_is_followed_by_no_empty_one() -> None:
    console = terminal()
    with LiveText(console, str) as text:
        for word in ("twenty letters fit", " in", " here"):
            text.write(word, "bold")
        text.write("\nand twenty of these! here", "bold")
    assert screen(console.file.getvalue()) == [
        *("twenty letters fit", "in here", "and twenty of these!", "here")
    ]


def test_a_reply_that_breaks_off_leaves_its_text() -> None:
    console = terminal()
    with suppress(KeyboardInterrupt), LiveText(console, str) as text:
        text.write("half a li", "bold")
        raise KeyboardInterrupt
    assert screen(console.file.getvalue()) == ["half a li"]


def test_the_cursor_is_never_hidden() -> None:
    console = terminal()
    with LiveText(console, str) as text:
        text.write("word", "bold")
    assert "\x1b[?25" not in console.file.getvalue()


@given(st.text(st.sampled_from("ab \n\u4e2d")), st.integers(2, 9))
def test_folded_lines_fit_and_hold_all_of_the_text(text: str, width: int) -> None:
    lines = [line.plain for line in folded(Text(text), width)]
    assert all(cell_len(line.rstrip(" ")) <= width for line in lines)
    assert "".join(lines) == text.replace("\n", "")
    assert folded(Text(text + "\n"), width)[-1].plain == ""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three", ["one ", "two ", "three"]),
        ("exactly", ["exac", "tly"]),
        ("four", ["four"]),
        ("four five", ["four ", "five"]),
    ],
)
def test_lines_are_broken_at_spaces(text: str, lines: list[str]) -> None:
    width = 4 if "one" not in text else 5
    assert [line.plain for line in folded(Text(text), width)] == lines


def event(source: TokenSource) -> outrider.Event:
    return outrider.Event(0, 0, "a", source)


def test_figures_say_how_many_tokens_how_fast_and_by_whom() -> None:
    clock = iter((10.0, 12.0, 12.0))
    figures = Figures(clock=lambda: next(clock))
    assert figures.line() == "no token yet"
    for source in (TokenSource.NGRAM, TokenSource.NGRAM, TokenSource.TARGET, TokenSource.DRAFT):
        figures.add(event(source))
    assert figures.line() == "4 tokens, 2 a second: draft 1, n-grams 2, target 1"


@pytest.mark.parametrize("has_draft", [True, False])
def test_the_legend_names_a_draft_where_there_is_one(has_draft: bool) -> None:
    console = terminal(width=80)
    show_legend(console, has_draft)
    assert ("the draft was right" in console.file.getvalue()) == has_draft
