"""Tokenizers in GGUF files, texts, and what llama.cpp makes of them, kept in gguf_tokens.json.

`python -m tests.engine.gguf_cases FOLDER` asks the llama-server in a folder anew, and writes the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from gguf import GGUFWriter
from gguf.constants import TokenType
from outrider_server.models import DRAFT_FOLDER

sys.path.insert(0, str(Path(__file__).parents[1]))

from gguf_files import Form, Tokens, write_model
from models_for_tests import tiny_llama

EXPECTED = Path(__file__).with_name("gguf_tokens.json")
PORT = 18431
ADDED = {
    "<|im_end|>": TokenType.CONTROL,
    "<think>": TokenType.USER_DEFINED,
    "    ": TokenType.USER_DEFINED,
    "<|eot_id|>": TokenType.NORMAL,
    "<|end|>": TokenType.CONTROL,
    "<|user|>": TokenType.CONTROL,
    "\N{FULLWIDTH VERTICAL LINE}": TokenType.USER_DEFINED,
}
SPLITS = (
    *("default", "gpt-2", "smollm", "llama-bpe", "glm4", "qwen2", "qwen35", "gpt-4o", "tekken"),
    *("deepseek-v3", "deepseek-coder", "falcon", "bloom", "viking"),
)
PIECES = 900
TEXTS = (
    *("", " ", "  ", "    ", "\t", "\n", "\n\n\n", "\t \n", " a", "  a ", "Hello, world! "),
    "The quick brown fox; it's 12,345.67!",
    "def f(x):\n    return  x\n\n\ty = 'z'\n",
    "don't DON'T We'LL you'Ve I'm 'D they'Re '\N{LATIN SMALL LETTER LONG S}",
    "1 12 123 1234 12345678 3.14e-10 0xFF ١٢٣ १२३ ½ ² Ⅷ",
    "Größe naïve ﬁne ① Привет, мир. Ελληνικά Ǆ",
    "你好，世界！ こんにちは、カタカナ 한국어",  # noqa: RUF001
    "हिन्दी में বাংলা ภาษาไทย עִבְרִית عربية،",
    "🙂 👩‍👩‍👧 👍🏽 🏳️‍🌈 e\u0301 \u200b\ufeffx \U0001d7d8",
    "\u00a0nbsp \u2003em\u3000wide\u0085nel\u2028ls",
    "a\r\nb\rc\n\rd\r\n\r\n \r\n",
    "   indented\n        more\n\n\n  less   ",
    "snake_case CamelCase XMLHttpRequest a/b\\c//d\n/e",
    '$100 €50 +-*/^~|<>=` ``` """ ... !!! ???',
    "<|user|>\n  hi<|end|> \n<|im_end|> a <|im_end|>\n<|eot_id|>b<think>  c\n</think> <|end|>\n  d",
    "<s>text</s> <unk> <0x0A> <|im_end",
    "word" + 21 * " " + "word" + 9 * "\n" + "x",
)


def cases() -> dict[str, tuple[str, Tokens]]:
    """The name of the model and its tokens, by the name of the case."""
    made = {split: ("tiny", bytes_that_merge(split)) for split in SPLITS}
    return made | {
        "pieces": ("tiny", scored_pieces(put_space=True)),
        "pieces without a space in front": ("tiny", scored_pieces(put_space=False)),
        "pieces of a model called Phi-3": (
            "Phi-3 mini",
            scored_pieces(put_space=True, indents=False),
        ),
    }


def bytes_that_merge(split: str) -> Tokens:
    """The bundled models' vocabulary, with tokens of all types, split as another model's."""
    model = json.loads((DRAFT_FOLDER / "tokenizer.json").read_bytes())["model"]
    known = sorted(model["vocab"], key=model["vocab"].get)
    types = [TokenType.CONTROL, *[TokenType.NORMAL] * (len(known) - 1), *ADDED.values()]

    def more(writer: GGUFWriter) -> None:
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)

    return Tokens(
        kind="gpt2",
        texts=[*known, *ADDED],
        types=types,
        merges=[" ".join(merge) for merge in model["merges"]],
        split=split,
        more=more,
    )


def scored_pieces(*, put_space: bool, indents: bool = True) -> Tokens:
    """Of SentencePiece's kind: bytes, and the first of the bundled vocabulary as text.

    `indents` has a token of spaces that is looked for before all others.
    """
    added = {text: kind for text, kind in ADDED.items() if indents or text.strip()}
    special = ("<unk>", "<s>", "</s>", "<|endoftext|>")
    texts = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 3, *[TokenType.BYTE] * 256]
    pieces = [piece for piece in _pieces() if piece not in texts]
    texts += [*pieces, *added]
    types += [*[TokenType.NORMAL] * len(pieces), *added.values()]

    def more(writer: GGUFWriter) -> None:
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(put_space)

    scores = [0.0] * 260 + [-float(number) for number in range(len(pieces))] + [0.0] * len(added)
    return Tokens(texts=texts, types=types, scores=scores, more=more)


def _pieces() -> list[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(DRAFT_FOLDER / "tokenizer.json"))
    found = (tokenizer.decode([token]).replace(" ", "▁") for token in range(1, PIECES))
    return list(dict.fromkeys(text for text in found if text and "\ufffd" not in text))


def write_case(folder: Path, name: str) -> Path:
    """A tiny model with the tokenizer of a case."""
    called, tokens = cases()[name]
    model = tiny_llama(vocabulary_size=len(tokens.texts))
    return write_model(model, folder / "model.gguf", Form(tokens=tokens, name=called))


def _ask(path: str, **question: Any) -> Any:
    data = json.dumps(question).encode() if question else None
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/{path}", data, timeout=30) as reply:
        return json.loads(reply.read())


def _measured(server: Path, file: Path) -> dict[str, list[list[int]]]:
    command = [server, "-m", file, "--port", str(PORT), "--no-warmup", "-c", "64"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            time.sleep(0.1)
            with suppress(OSError):
                if _ask("health")["status"] == "ok":
                    break
        kinds = {"all": {}, "begun": {"add_special": True}, "said": {"parse_special": False}}
        return {
            kind: [_ask("tokenize", content=text, **more)["tokens"] for text in TEXTS]
            for kind, more in kinds.items()
        }
    finally:
        process.kill()
        process.wait()


def main() -> None:
    server = Path(sys.argv[1]) / "llama-server"
    found: dict[str, Any] = {}
    for name in cases():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = _measured(server, write_case(Path(folder), name))
        print(name, sum(map(len, found[name]["all"])), flush=True)
    lines = [
        json.dumps(name)
        + ": {\n"
        + ",\n".join(
            f"  {json.dumps(kind)}: {json.dumps(ids, separators=(',', ':'))}"
            for kind, ids in kinds.items()
        )
        + "\n}"
        for name, kinds in found.items()
    ]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
