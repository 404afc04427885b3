"""The chat command on a terminal and on a pipe: it goes on where it can, and says what to continue with."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest
from outrider.v1 import session_pb2

from .fake_service import HOLD, Failure, bad_request, error_info, hello, started, token

# A shell that runs tests in its background has interrupts ignored, and children inherit that.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from outrider.cli import main; main()"
)
CONTINUE = "continue with --session s0"


class Terminal:
    """The command with a terminal of its own, and what it has shown."""

    def __init__(self, address: str, *arguments: str) -> None:
        self._end, inner = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "chat", *arguments],
            env={**os.environ, "OUTRIDER_SERVER": address, "PYTHONIOENCODING": "utf-8"},
            **dict.fromkeys(("stdin", "stdout", "stderr"), inner),
        )
        os.close(inner)
        self._shown = ""

    def until(self, text: str) -> str:
        """Reads on until the text is shown, and gives what came before it."""
        while text not in self._shown:
            self._shown += os.read(self._end, 4096).decode(errors="replace")
        before, _, self._shown = self._shown.partition(text)
        return before

    def write(self, written: bytes) -> None:
        os.write(self._end, written)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def terminal(address: str) -> Iterator[Terminal]:
    chatting = Terminal(address, "--system", "be kind")
    yield chatting
    chatting.close()


def asked(service) -> list[list[str]]:
    """The messages of each turn so far."""
    requests = [service.requests.get() for _ in range(service.requests.qsize())]
    turns = (each for each in requests if isinstance(each, session_pb2.GenerateRequest))
    return [[message.content for message in turn.chat.messages] for turn in turns]


def next_turn(service) -> session_pb2.GenerateRequest:
    """Waits for a turn's request."""
    while not isinstance(request := service.requests.get(), session_pb2.GenerateRequest):
        pass
    return request


def test_a_chat_on_a_terminal_begins_with_who_answers(terminal, address, service):
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.until("> "))
    assert shown == f"big at {address}\r\nn-gram was right · the target's own\r\n"


def test_an_interrupt_ends_the_reply_and_the_next_one_the_chat(terminal, service):
    service.script = [started(), token(0, "abc"), HOLD]
    terminal.until("> ")
    terminal.write(b"one\n")
    terminal.until("abc")
    terminal.interrupt()
    terminal.until("> ")
    assert service.cancelled.wait(10)
    service.script = hello()
    terminal.write(b"two\n")
    shown = terminal.until("> ")
    assert "hello!" in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    terminal.interrupt()
    assert terminal.until(CONTINUE) == "\r\n"
    assert terminal.process.wait(30) == 130
    assert asked(service) == [["be kind", "one"], ["two"]]


def test_what_is_told_first_is_told_again_where_the_turn_had_not_begun(terminal, service):
    service.script = [HOLD]
    terminal.until("> ")
    terminal.write(b"one\n")
    first = next_turn(service)
    terminal.interrupt()
    terminal.until("> ")
    service.script = hello()
    terminal.write(b"two\n")
    terminal.until("> ")
    turns = [first, next_turn(service)]
    told = [[message.content for message in turn.chat.messages] for turn in turns]
    assert told == [["be kind", "one"], ["be kind", "two"]]


def test_a_line_that_is_no_text_is_told_of_and_the_chat_goes_on(terminal, service):
    terminal.until("> ")
    terminal.write(b"caf\xe9\n")
    terminal.until("outrider: this line is no utf-8 text, so it was not sent")
    terminal.until("> ")
    terminal.write("caf\u00e9\n\x04".encode())
    terminal.until(CONTINUE)
    assert terminal.process.wait(30) == 0
    assert asked(service) == [["be kind", "caf\u00e9"]]


def test_a_message_that_is_refused_is_told_of_and_the_chat_goes_on(terminal, service):
    refusal = [error_info("INVALID_REQUEST"), bad_request("input")]
    service.script = [Failure(grpc.StatusCode.INVALID_ARGUMENT, "the input is too long", *refusal)]
    terminal.until("> ")
    terminal.write(b"one\n")
    terminal.until("outrider: the input is too long; this message was not sent")
    service.script = hello()
    terminal.until("> ")
    terminal.write(b"two\n")
    terminal.until("> ")
    terminal.write(b"\x04")
    terminal.until(CONTINUE)
    assert terminal.process.wait(30) == 0
    assert asked(service) == [["be kind", "one"], ["be kind", "two"]]


def piped(address: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "chat"],
        env={**os.environ, "OUTRIDER_SERVER": address, "PYTHONIOENCODING": "utf-8"},
        input=text,
        capture_output=True,
    )


def test_a_bad_line_of_a_pipe_leaves_the_lines_around_it(address, service):
    outcome = piped(address, b"one\n\xff\xfe\ntwo")
    assert (outcome.returncode, outcome.stdout) == (0, b"hello!\nhello!\n")
    told = b"outrider: this line is no utf-8 text, so it was not sent\n"
    assert outcome.stderr == told + CONTINUE.encode() + b"\n"
    assert asked(service) == [["one"], ["two"]]


def test_a_chat_that_fails_says_what_to_continue_with(address, service):
    service.script = [started(), token(0, "abc"), Failure(grpc.StatusCode.INTERNAL, "broke")]
    outcome = piped(address, b"one\ntwo\n")
    assert (outcome.returncode, outcome.stdout) == (1, b"abc\n")
    assert outcome.stderr.decode() == f"outrider: broke\n{CONTINUE}\n"


def test_a_chat_without_a_session_has_nothing_to_continue_with(address, service):
    service.failures["CreateSession"] = Failure(grpc.StatusCode.INTERNAL, "full")
    outcome = piped(address, b"one\n")
    assert (outcome.returncode, outcome.stderr) == (1, b"outrider: full\n")


def test_an_interrupt_ends_a_chat_that_nobody_types(address, service):
    service.script = [started(), token(0, "abc"), HOLD]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "chat"],
        env={**os.environ, "OUTRIDER_SERVER": address},
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
    )
    with process:
        process.stdin.write(b"one\ntwo\n")
        process.stdin.flush()
        assert process.stdout.read(3) == b"abc"
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors.decode()) == (130, f"{CONTINUE}\n")
    assert asked(service) == [["one"]]
