"""Runs chats and texts through live sessions with real tokenizers and templates, compared with transformers.

`python -m tests.session.real_sessions FOLDER...` needs no weights: each folder's tokenizer gets a random
model of one layer, and this a target, a draft and a session service. Prints a table.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import outrider
import torch
from outrider_server.engine.model.tokenizer_files import read_tokenizer
from outrider_server.host.engine_host import EngineHost
from outrider_server.session.text.messages import ChatContext
from tokenizers import Tokenizer as RawTokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ..services.harness import Stack, running_engine, until_idle
from .chat_conversations import CALLING, SYSTEM, TALK, TOOLS, Messages, thinking

REPLY_TOKENS = 12
ASKED = [[message] for message in TALK if message.role == "user"]
Chat = tuple[list[Messages], ChatContext]
CHATS: dict[str, Chat] = {
    "a talk": (ASKED, ChatContext()),
    "with a system message": ([[SYSTEM, *ASKED[0]], *ASKED[1:]], ChatContext()),
    "after thoughts in the content": (
        [thinking(in_content=True)[:3], *ASKED[1:]],
        ChatContext(),
    ),
    "after thoughts beside it": ([thinking(in_content=False)[:3], *ASKED[1:]], ChatContext()),
    "no thinking asked for": (ASKED, ChatContext(options={"enable_thinking": False})),
    "after a call of a tool": ([CALLING[:3], *ASKED[1:]], ChatContext(tools=TOOLS)),
}
"""What is said in each turn. The replies are the model's own."""
TEXTS = [
    "The quick brown fox,\n\n\tjumps  over 12345 lazy dogs' tails. ",
    " na\u00efve caf\u00e9 e\u0301 \u00df \ufb01 \u0130stanbul",
    "\u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u0431",
    "\u0645\u0631\u062d\u0628\u0627 \u0627\u0644\u0639\u064e\u0627\u0644\u064e\u0645\u060c \u0664\u0665",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0915\u094d\u200d\u0937",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u3053\u3093\u306b\u3061\u306f \u30ab\u30bf\u30ab\u30ca \U00020bb7",
    "\uc548\ub155\ud558\uc138\uc694 \u1112\u1161\u11ab\uae00",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44b\U0001f3fd \U0001f1e9\U0001f1ea \u00a0\u200b",
]


@dataclass
class Score:
    """How many comparisons were made of a folder, and which of them differ."""

    turns: int = 0
    refused: int = 0
    """Turns that the template refuses here and in transformers."""
    texts: int = 0
    differ: list[str] = field(default_factory=list)
    texts_differ: list[str] = field(default_factory=list)


def save_model(folder: Path, tokenizer_folder: Path) -> Any:
    """A random model of one layer with the tokenizer's files beside it; returns transformers' tokenizer."""
    for path in tokenizer_folder.iterdir():
        if path.suffix in (".json", ".jinja", ".model"):
            shutil.copy(path, folder)
    peer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=max(peer.get_vocab().values()) + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=peer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return peer


@asynccontextmanager
async def client_of(target: EngineHost, draft: EngineHost) -> Any:
    """A client of the three services."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        try:
            await stack.start_target(target)
            await stack.start_draft(draft)
            yield (await stack.start_session()).client
        finally:
            await stack.close()


async def run_chat(client: outrider.AsyncClient, peer: Any, chat: Chat, score: Score) -> None:
    """Every turn's prompt is what transformers makes of all messages so far, the replies among them."""
    inputs, context = chat
    session = await client.create_session()
    options = dict(context.options)
    tools = [dict(tool) for tool in context.tools] or None
    said: list[dict[str, Any]] = []
    for number, messages in enumerate(inputs, start=1):
        new = [message.as_json() for message in messages]
        said += new
        reply = session.generate(
            new,
            max_new_tokens=REPLY_TOKENS,
            seed=number,
            temperature=1.0,
            ignore_end_tokens=number % 2 == 0,
            tools=tools,
            template_options=options or None,
        )
        expected = _prompt(peer, said, tools, options)
        try:
            await reply.read()
        except outrider.InvalidRequestError as error:
            if expected is not None:
                raise AssertionError(f"turn {number} is refused here alone: {error}") from error
            score.refused += 1
            return
        score.turns += 1
        tokens = (await until_idle(session)).tokens
        assert tokens is not None
        assert reply.started is not None
        if expected != list(tokens[: reply.started.start_position]):
            score.differ.append(f"turn {number}")
        told = (await session.messages())[-1]
        assert (told.role, told.content) == ("assistant", reply.text)
        said.append({"role": "assistant", "content": told.content})


def _prompt(peer: Any, said: Any, tools: Any, options: dict[str, Any]) -> list[int] | None:
    """The tokens of transformers; None where the template refuses the messages."""
    try:
        rendered = peer.apply_chat_template(
            said, tools=tools, add_generation_prompt=True, **options
        )
    except Exception:  # whatever a template raises
        return None
    return list(rendered["input_ids"])


def spelled(folder: Path, peer: Any) -> Iterator[str]:
    """Texts that hold the text of a special token which the template writes or a role of its own has.

    Those that the files call special: classes of transformers call others special too, by their defaults.
    """
    files = read_tokenizer(folder)
    added = RawTokenizer.from_str(files.tokenizer_json.decode()).get_added_tokens_decoder()
    named = {*peer.all_special_tokens, files.begin_token, files.end_token}
    for token in added.values():
        if token.special and (token.content in named or token.content in files.chat_template):
            yield f"a {token.content}b{token.content}"
            yield token.content


async def run_texts(
    client: outrider.AsyncClient, peer: Any, texts: Sequence[str], score: Score
) -> None:
    """Each text begins a session, and goes on in one. For tokenizers that put no space before a text."""
    for index, text in enumerate(texts):
        session = await client.create_session()
        at = 0
        for said in (text, texts[index - 1]):
            reply = session.generate(said, max_new_tokens=REPLY_TOKENS, seed=index, temperature=1.0)
            await reply.read()
            held = list((await until_idle(session)).tokens or ())
            assert reply.started is not None
            expected = peer(said, add_special_tokens=at == 0, split_special_tokens=True)
            score.texts += 1
            if held[at : reply.started.start_position] != expected["input_ids"]:
                score.texts_differ.append(f"{said!r} {'later' if at else 'first'}")
            at = len(held)


async def compared(target: EngineHost, draft: EngineHost, peer: Any, control: list[str]) -> Score:
    """All chats and texts of a folder."""
    score = Score()
    async with client_of(target, draft) as client:
        for name, chat in CHATS.items():
            known = len(score.differ)
            try:
                await run_chat(client, peer, chat, score)
            except AssertionError as difference:
                score.turns += 1
                score.differ.append(str(difference))
            score.differ[known:] = [f"{name}: {what}" for what in score.differ[known:]]
        await run_texts(client, peer, [*TEXTS, *control], score)
    return score


def run_folder(tokenizer_folder: Path) -> Score:
    """Builds the model, starts its services, and compares."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as engines:
        peer = save_model(Path(folder), tokenizer_folder)
        target, draft = (
            engines.enter_context(running_engine(Path(folder), name, slots=2, rows=1))
            for name in ("target", "draft")
        )
        return asyncio.run(compared(target, draft, peer, list(spelled(Path(folder), peer))))


def main() -> int:
    """Prints what differs, and the table; 1 if anything differs."""
    scores = {folder: run_folder(Path(folder)) for folder in sys.argv[1:]}
    print("| folder | turns equal | refused by both | texts equal |\n|---|---:|---:|---:|")
    for folder, score in scores.items():
        turns = f"{score.turns - len(score.differ)} of {score.turns}"
        texts = f"{score.texts - len(score.texts_differ)} of {score.texts}"
        print(f"| {folder} | {turns} | {score.refused} | {texts} |")
    differ = {folder: [*score.differ, *score.texts_differ] for folder, score in scores.items()}
    for folder, names in differ.items():
        for name in names:
            print(f"{folder} differs: {name}")
    return 1 if any(differ.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
