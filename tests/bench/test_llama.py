"""llama.cpp's server in each mode: its command line, and what is read of its answers.

The server is a stand-in with the real one's paths and answers. `test_real_peers.py` has the real one.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from outrider_bench.llama_cpp import LlamaFiles, LlamaServer
from outrider_bench.llama_modes import LlamaMode, llama_modes
from outrider_bench.tasks import Task
from outrider_server.core.errors import StartupError

STAND_IN = """#!{python}
import http.server, json, sys

TIMINGS = {{"draft_n": 6, "draft_n_accepted": 2, "prompt_ms": 1.5}}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = list(range(asked["n_predict"]))
        self.send_response(200)
        self.end_headers()
        if asked["stream"]:
            parts = [{{"tokens": [token], "stop": False}} for token in tokens]
            parts.append({{"tokens": [], "stop": True, "timings": TIMINGS}})
            text = "".join(f"data: {{json.dumps(part)}}\\n\\n" for part in parts)
        else:
            text = json.dumps({{"tokens": tokens, "timings": TIMINGS, "asked": asked}})
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def files(tmp_path: Path) -> LlamaFiles:
    binary = tmp_path / "llama-server"
    binary.write_text(STAND_IN.format(python=sys.executable))
    binary.chmod(0o755)
    return LlamaFiles(binary, Path("target.gguf"), Path("draft.gguf"), 512, 2)


def options(mode: LlamaMode) -> dict[str, str]:
    """The speculative options of a server in that mode."""
    command = LlamaServer(LlamaFiles(Path("b"), Path("t"), Path("d"), 512, 2), mode).command()
    pairs = itertools.pairwise(command)
    return {word: value for word, value in pairs if word.startswith("--spec")}


def test_llama_gets_what_auto_has() -> None:
    """The draft alone, n-grams alone, and both in a chain, each kind of n-grams with settings of its own."""
    types = [[mode.types for mode in modes] for modes in llama_modes(with_draft=True)]
    kinds = {each for several in types for each in several}
    assert kinds == {
        (),
        ("draft-simple",),
        ("draft-simple", "ngram-mod"),
        ("draft-simple", "ngram-map-k"),
        ("ngram-mod",),
        ("ngram-map-k",),
    }
    assert all(len(set(several)) == 1 for several in types)
    names = [[mode.name for mode in modes] for modes in llama_modes(with_draft=True)]
    assert all(len(set(several)) == 1 for several in names)
    assert len({several[0] for several in names}) == len(names)


def test_without_a_draft_there_are_n_grams_alone() -> None:
    found = {mode.types for modes in llama_modes(with_draft=False) for mode in modes}
    assert found == {(), ("ngram-mod",), ("ngram-map-k",)}


def test_a_chain_names_both_and_the_draft() -> None:
    (chain,) = [modes for modes in llama_modes(True) if modes[0].name == "draft, ngram-mod"]
    given = options(chain[0])
    assert given["--spec-type"] == "draft-simple,ngram-mod"
    assert given["--spec-draft-model"] == "d"
    assert given["--spec-draft-n-max"] == "3"
    assert "--spec-ngram-mod-n-match" not in given
    assert options(chain[-1])["--spec-ngram-mod-n-match"] == "8"


def test_plain_and_n_grams_name_no_draft() -> None:
    assert options(LlamaMode("plain")) == {}
    assert options(LlamaMode("ngram-mod", ("ngram-mod",))) == {"--spec-type": "ngram-mod"}


@pytest.mark.parametrize("chat", [False, True])
async def test_answers_are_read_whole_and_streamed(files: LlamaFiles, chat: bool) -> None:
    server = LlamaServer(files, LlamaMode("draft 3", ("draft-simple",), 3))
    await server.start()
    try:
        outcome = await server.run(Task("text", (1, 2, 3), 5, 0.0, 1, chat=chat))
    finally:
        await server.stop()
    assert outcome.tokens == (0, 1, 2, 3, 4)
    assert outcome.details["accepted"] == 2
    assert outcome.details["guesses"] == "3"
    assert server.ready_seconds > 0
    assert (outcome.first_seconds is not None) == chat


async def test_a_server_that_does_not_start_is_told_with_its_command(tmp_path: Path) -> None:
    binary = tmp_path / "llama-server"
    binary.write_text("#!/bin/sh\nexit 1\n")
    binary.chmod(0o755)
    server = LlamaServer(LlamaFiles(binary, Path("t"), None, 512, 1), LlamaMode("plain"))
    with pytest.raises(
        StartupError, match=r"llama.cpp plain did not start \(status 1\): .*llama-server --model t"
    ):
        await server.start()


async def test_a_server_that_is_gone_is_told(files: LlamaFiles) -> None:
    server = LlamaServer(files, LlamaMode("plain"))
    await server.start()
    await server.stop()
    asked: Any = Task("text", (1,), 1, 0.0, 1)
    with pytest.raises(StartupError, match=r"llama.cpp plain does not answer"):
        await server.run(asked)
