"""Conversations in which templates and tokenizers have something to get wrong, and how they are compared."""

from typing import Any

from outrider_server.session.text.chat import ChatTemplate
from outrider_server.session.text.messages import ChatContext, ChatMessage, ToolCall
from outrider_server.session.text.tokenizer import Tokenizer

Messages = list[ChatMessage]
SYSTEM = ChatMessage("system", " Be brief; \u8bf7\u7b80\u77ed. ")
TALK = [
    ChatMessage("user", "  Hello! What is 2 + 2?\n"),
    ChatMessage("assistant", "4, \u56db, \u0623\u0631\u0628\u0639\u0629."),
    ChatMessage("user", "\u4f60\u597d\uff0c\u8bf7\u7ffb\u8bd1 <b>&amp;</b> {{ messages }}"),
    ChatMessage("assistant", "\n```py\nif a < b:\n\treturn '%s' % {}\n```\n"),
    ChatMessage(
        "user",
        "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 \u05e9\u05dc\u05d5\u05dd",
    ),
    ChatMessage("assistant", "\U0001f44b\U0001f3fd e\u0301 \u00a0 \u200d \ufb01"),
    ChatMessage(
        "user", "\u3053\u3093\u306b\u3061\u306f \uc548\ub155 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"
    ),
    ChatMessage("assistant", "And\r\n\r\nthen?"),
    ChatMessage("user", "the quick brown fox"),
]
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Wetter \u5929\u6c14 "<now>"',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
)
CALLING = [
    ChatMessage("user", "Is it fine in K\u00f6ln?"),
    ChatMessage(
        "assistant", tool_calls=(ToolCall("weather", {"city": "K\u00f6ln", "n": 1}, "call12345"),)
    ),
    ChatMessage("tool", '{"sky": "\u2600", "is": "fine"}', tool_call_id="call12345"),
    ChatMessage("assistant", "It is."),
    ChatMessage("user", "And now?"),
]


def thinking(*, in_content: bool) -> Messages:
    """The talk with thoughts before each answer."""
    thoughts = "\nthe user asks\n\nso \u6211\u60f3\n"
    return [
        message
        if message.role == "user"
        else ChatMessage("assistant", f"<think>{thoughts}</think>\n\n{message.content}")
        if in_content
        else ChatMessage("assistant", message.content, reasoning_content=thoughts)
        for message in TALK
    ]


def check(
    chat: ChatTemplate, tokenizer: Tokenizer, peer: Any, messages: Messages, context: ChatContext
) -> None:
    """Compares text and tokens of every turn with those of transformers' tokenizer."""
    for length in range(1, len(messages) + 1):
        part = messages[:length]
        arguments = {
            "conversation": [message.as_json() for message in part],
            "tools": list(context.tools) or None,
            "documents": list(context.documents) or None,
            "add_generation_prompt": True,
            **context.options,
        }
        rendered = chat.render(part, context)
        assert rendered.text == peer.apply_chat_template(**arguments, tokenize=False)
        tokens = tokenizer.encode_rendered(rendered, begin=True)
        assert tokens == peer.apply_chat_template(**arguments)["input_ids"]
