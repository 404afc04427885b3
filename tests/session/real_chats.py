"""Compares model folders with their real tokenizers and templates with transformers, folder by folder.

`python -m tests.session.real_chats FOLDER...` needs no weights: the tokenizer's files are enough.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from outrider_server.core.errors import InvalidRequest
from outrider_server.engine.model.tokenizer_files import read_tokenizer
from outrider_server.session.text.chat import ChatTemplate
from outrider_server.session.text.messages import ChatContext, ChatMessage
from outrider_server.session.text.tokenizer import Tokenizer
from transformers import AutoTokenizer

from .chat_conversations import CALLING, SYSTEM, TALK, TOOLS, check, thinking

Case = tuple[str, list[ChatMessage], ChatContext]
CHATS: list[Case] = [
    ("five turns", TALK, ChatContext()),
    ("five turns with a system message", [SYSTEM, *TALK], ChatContext()),
    ("thoughts in the content", thinking(in_content=True), ChatContext()),
    ("thoughts beside it", thinking(in_content=False), ChatContext()),
    ("no thinking asked for", TALK, ChatContext(options={"enable_thinking": False})),
    ("calls of tools", CALLING, ChatContext(tools=TOOLS)),
]


def compared(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """What is compared, by name; each check raises where something differs."""
    files = read_tokenizer(folder)
    tokenizer = Tokenizer(
        files.tokenizer_json.decode(),
        begin_token=files.begin_token,
        end_token=files.end_token,
        chat_template=files.chat_template + files.tool_chat_template,
    )
    chat = ChatTemplate(
        files.chat_template,
        files.begin_token,
        files.end_token,
        pad_token=files.pad_token,
        unknown_token=files.unknown_token,
        tool_source=files.tool_chat_template,
    )
    peer: Any = AutoTokenizer.from_pretrained(folder)
    for name, messages, context in CHATS:
        yield name, functools.partial(_compare, chat, tokenizer, peer, messages, context)
    for message in TALK:
        text = message.content
        yield (
            f"text {text!r:.30}",
            lambda text=text: _same(tokenizer.encode(text, begin=True), peer(text)["input_ids"]),
        )


def _compare(
    chat: ChatTemplate,
    tokenizer: Tokenizer,
    peer: Any,
    messages: list[ChatMessage],
    context: ChatContext,
) -> None:
    """What the template refuses, it has to refuse in transformers too."""
    try:
        check(chat, tokenizer, peer, messages, context)
    except InvalidRequest:
        conversation = [message.as_json() for message in messages]
        try:
            peer.apply_chat_template(conversation, tools=list(context.tools) or None)
        except Exception:
            return
        raise AssertionError("refused here alone") from None


def _same(ours: list[int], theirs: list[int]) -> None:
    assert ours == theirs


def main() -> int:
    """Prints a line for each comparison that differs and one for each folder; 1 if any differs."""
    differ = 0
    for folder in map(Path, sys.argv[1:]):
        equal = of = 0
        for name, run in compared(folder):
            of += 1
            try:
                run()
                equal += 1
            except AssertionError as difference:
                print(f"{folder}: {name}: {str(difference)[:300]}")
        differ += of - equal
        print(f"{folder}: {equal} of {of} equal")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
