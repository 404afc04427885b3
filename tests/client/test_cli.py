"""The command against a scripted service: what it prints, and how it exits."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import grpc
import outrider
import pytest
from outrider.cli.app import app
from outrider.cli.render import TokenRenderer, summary_line, write_legend
from outrider.v1 import session_pb2, types_pb2
from rich.console import Console
from typer.testing import CliRunner, Result

from .fake_service import HOLD, Failure, bad_request, error_info, hello, started, summary, token


@pytest.fixture
def run(address, monkeypatch):
    """Runs the command against the fake service, in this process."""
    monkeypatch.setenv("OUTRIDER_SERVER", address)

    def invoke(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=text)

    return invoke


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_generate_prints_the_text_alone_on_standard_output(run):
    result = run("generate", "hi")
    assert (result.exit_code, result.stdout) == (0, "hello!\n")
    assert result.stderr.startswith("3 tokens in 2 rounds (1.50 a round) · 3 of 4 proposed right")
    assert result.stderr.rstrip().endswith("session s0")


def test_text_that_ends_its_line_gets_no_other_end(run, service):
    service.script = [started(), token(0, "x\n"), summary(1)]
    assert run("generate", "hi").stdout == "x\n"


def test_json_prints_one_event_a_line_and_the_summary_last(run):
    result = run("generate", "hi", "--json")
    printed = lines(result)
    assert [line["type"] for line in printed] == ["started", "token", "token", "token", "summary"]
    assert (printed[0]["session_id"], printed[0]["seed"]) == ("s0", 7)
    assert [line["source"] for line in printed[1:4]] == ["draft", "ngram", "target"]
    assert (printed[-1]["finish_reason"], printed[-1]["tokens_per_round"]) == ("length", 1.5)
    assert result.stderr == ""


def test_json_of_a_turn_without_tokens_has_start_and_summary(run, service):
    service.script = [started(), summary(0)]
    assert [line["type"] for line in lines(run("generate", "hi", "--json"))] == [
        "started",
        "summary",
    ]


def test_options_reach_the_request(run, service):
    service.add_sessions(2)
    result = run(
        *("generate", "hi", "--session", "s1", "--max-new-tokens", "5", "--temperature", "0.5"),
        *("--top-k", "4", "--top-p", "0.5", "--min-p", "0.25", "--seed", "9", "--stop", "a"),
        *("--stop", "b", "--draft", "off", "--max-window", "3", "--logprobs", "0"),
        *("--repetition-penalty", "1.5", "--frequency-penalty", "1", "--presence-penalty", "2"),
        *("--stop-token-id", "7", "--stop-token-id", "8", "--ignore-end-tokens"),
        *("--min-new-tokens", "2", "--parse-control-tokens"),
    )
    assert result.exit_code == 0
    service.requests.get()
    request = service.requests.get()
    assert request == session_pb2.GenerateRequest(
        request_id=request.request_id,
        session_id="s1",
        text="hi",
        max_new_tokens=5,
        sampling=types_pb2.SamplingParams(
            temperature=0.5,
            top_k=4,
            top_p=0.5,
            min_p=0.25,
            repetition_penalty=1.5,
            frequency_penalty=1,
            presence_penalty=2,
        ),
        seed=9,
        stop=["a", "b"],
        draft=session_pb2.DRAFT_MODE_OFF,
        max_window=3,
        logprobs=0,
        stop_token_ids=[7, 8],
        ignore_end_tokens=True,
        min_new_tokens=2,
        parse_control_tokens=True,
    )


@pytest.mark.parametrize("arguments", [["generate", "-"], ["generate"]])
def test_the_prompt_can_come_from_standard_input(run, service, arguments):
    assert run(*arguments, text="from a pipe").exit_code == 0
    service.requests.get()
    assert service.requests.get().text == "from a pipe"


def test_chat_sends_each_line_as_a_message(run, service):
    result = run("chat", "--system", "be kind", text="one\n\n two \n")
    assert (result.exit_code, result.stdout) == (0, "hello!\nhello!\n")
    assert "continue with --session s0" in result.stderr
    service.requests.get()
    turns = [service.requests.get().chat.messages for _ in range(2)]
    assert [[(m.role, m.content) for m in messages] for messages in turns] == [
        [("system", "be kind"), ("user", "one")],
        [("user", "two")],
    ]


def test_sessions_are_listed_shown_and_deleted(run, service):
    service.add_sessions(2)
    listed = run("sessions", "list").stdout.splitlines()
    assert [line.split()[:3] for line in listed] == [["s0", "0", "tokens"], ["s1", "1", "tokens"]]
    assert [line["id"] for line in lines(run("sessions", "list", "--json"))] == ["s0", "s1"]
    assert "text      'ab'" in run("sessions", "show", "s1").stdout
    assert lines(run("sessions", "show", "s1", "--json"))[0]["tokens"] == [1, 2]
    assert run("sessions", "delete", "s0", "s1").stdout == "deleted s0\ndeleted s1\n"
    assert service.sessions == {}


def test_describe_names_target_and_draft(run, service):
    assert "not used: there is none" in run("describe").stdout
    service.description.draft.name = "small"
    service.description.draft_note = "its vocabulary differs"
    service.description.draft.vocabulary_size = 49_152
    service.description.draft.known_tokens = 16_383
    text = run("describe").stdout
    assert "big" in text
    assert "small" in text
    assert "not used: its vocabulary differs" in text
    assert "49,152 token ids, of which it knows 16,383" in text
    described = lines(run("describe", "--json"))[0]
    assert (described["version"], described["draft"]["name"]) == ("1.2.3", "small")


def test_describe_tells_the_defaults_and_the_ids(run, service):
    assert "defaults none: the model's distribution as it is\n" in run("describe").stdout
    target = service.description.target
    target.vocabulary_size, target.tokenizer_size, target.output_rows = 151_665, 151_665, 151_936
    target.generation_defaults.MergeFrom(types_pb2.SamplingParams(temperature=0.6, top_k=20))
    neutral = types_pb2.SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0)
    service.description.sampling_defaults.CopyFrom(neutral)
    text = run("describe").stdout
    assert "151,665 token ids (the tokenizer has 151,665, the model 151,936)" in text
    assert "as it is (its generation_config.json, not followed: temperature 0.6, top_k 20)" in text
    followed = types_pb2.SamplingParams(temperature=0.6, top_k=20, top_p=1, min_p=0)
    service.description.sampling_defaults.CopyFrom(followed)
    assert "defaults temperature 0.6, top_k 20\n" in run("describe").stdout
    described = lines(run("describe", "--json"))[0]
    assert described["target"]["generation_defaults"] == {"temperature": 0.6, "top_k": 20}
    assert described["sampling_defaults"]["top_p"] == 1


def test_an_error_is_one_line_and_exit_code_1(run, service):
    missing = run("sessions", "show", "nobody")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert missing.stderr == "outrider: no session nobody\n"
    details = [error_info("INVALID_REQUEST"), bad_request("sampling.top_p")]
    service.failures["Generate"] = Failure(grpc.StatusCode.INVALID_ARGUMENT, "too\nhigh", *details)
    refused = run("generate", "hi", "--json")
    assert (refused.exit_code, refused.stderr) == (1, "outrider: sampling.top_p: too high\n")


def test_a_turn_that_fails_midway_keeps_what_was_printed(run, service):
    service.script = [started(), token(0, "abc"), Failure(grpc.StatusCode.INTERNAL, "broke")]
    result = run("generate", "hi")
    assert (result.exit_code, result.stdout) == (1, "abc\n")
    assert result.stderr == "outrider: broke\n"


def test_an_unreachable_service_is_exit_code_1(run):
    result = run("describe", "--server", "unix:/nowhere/outrider.sock")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "hi", "--draft", "both"],
        ["generate", "--seed", "x"],
        ["sessions", "frobnicate"],
    ],
)
def test_wrong_usage_is_exit_code_2(run, arguments):
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("given", ["", "localhost", "127.0.0.1:99999", "[::1]", "a b:1"])
def test_what_is_no_address_is_wrong_usage_in_one_line(run, given):
    result = run("describe", "--server", given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    told = result.stderr.removeprefix("outrider: --server: ")
    assert told.startswith(given or "the address is empty")


def test_an_interrupt_cancels_the_call_and_exits_130(address, service):
    service.script = [started(), token(0, "abc"), HOLD]
    # A shell that runs tests in its background has interrupts ignored, and children inherit that.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{listening}; from outrider.cli import main; main()"
    command = [sys.executable, "-c", program, "generate", "hi"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OUTRIDER_SERVER": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout.read(3) == b"abc"
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, b"")
    assert service.cancelled.wait(10)


def test_a_reader_that_goes_away_ends_the_command_without_a_traceback(address, service):
    service.script = [started(), *(token(i, "x" * 100) for i in range(3000)), summary(3000)]
    command = [sys.executable, "-c", "from outrider.cli import main; main()", "generate", "hi"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OUTRIDER_SERVER": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        process.stdout.read(3)
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(30) == 1
    assert errors == b""


@pytest.mark.parametrize(
    ("command", "status", "said"), [("generate", 2, "give a PROMPT"), ("chat", 0, "")]
)
def test_closed_standard_input_holds_nothing(address, command, status, said):
    run = f"exec {sys.executable} -m outrider {command} --server={address} 0<&-"
    result = subprocess.run(["sh", "-c", run], capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_without_its_packages_the_command_says_what_to_install():
    script = "import sys; sys.modules['typer'] = None\nfrom outrider.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == ("outrider: the command needs more packages: install `outrider[cli]`\n")


def events() -> list[outrider.Event]:
    sources = [outrider.TokenSource(name) for name in ("draft", "ngram", "target", "unknown")]
    return [outrider.Event(index, index, "ab", source) for index, source in enumerate(sources)]


def rendered(console: Console, *written: outrider.Event, marks: bool = False) -> str:
    renderer = TokenRenderer(console, marks=marks)
    for event in written:
        renderer.write(event)
    renderer.finish()
    return console.file.getvalue()


def terminal() -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, color_system="standard", _environ={"TERM": "xterm"}
    )


def test_a_terminal_shows_each_source_in_its_style():
    assert rendered(terminal(), *events()) == (
        "\x1b[32mab\x1b[0m\x1b[36mab\x1b[0m\x1b[1mab\x1b[0mab\n"
    )


def test_elsewhere_the_text_is_plain_and_exact():
    odd = outrider.Event(0, 0, "[red]\x1b[2J\r\n", outrider.TokenSource.DRAFT)
    assert rendered(Console(file=io.StringIO()), odd) == "[red]\x1b[2J\r\n"


def test_marks_show_the_source_without_colour():
    assert rendered(Console(file=io.StringIO()), *events(), marks=True) == "[ab]{ab}abab\n"


def test_marks_hold_all_that_one_drafter_wrote_in_a_row() -> None:
    draft, ngram, target, _ = events()
    written = (draft, draft, ngram, target, target, draft)
    assert rendered(Console(file=io.StringIO()), *written, marks=True) == "[abab]{ab}abab[ab]\n"


def test_a_terminal_gets_no_escape_sequence_of_the_model():
    hostile = outrider.Event(0, 0, "a\x1b]0;title\x07\x9b2Jb\r", outrider.TokenSource.UNKNOWN)
    assert rendered(terminal(), hostile) == "a]0;title2Jb\n"


def test_the_legend_names_the_three_sources():
    console = terminal()
    write_legend(console)
    assert "\x1b[32mthe draft was right" in console.file.getvalue()


def test_a_degraded_turn_says_why():
    turn = hello()[-1].summary
    turn.degraded, turn.degraded_reason = True, "the draft went away"
    from outrider import _wire

    (value,) = _wire.turn_messages(session_pb2.GenerateEvent(summary=turn))
    assert summary_line(value).endswith("length · degraded: the draft went away")
