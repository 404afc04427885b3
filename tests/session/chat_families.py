"""Chat templates of many families, written from their documented formats, each with its control tokens.

Special tokens are those that the family's tokenizer calls special; the others are added tokens only.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider_server.session.text.chat import ChatTemplate
from outrider_server.session.text.tokenizer import Tokenizer
from tokenizers import AddedToken
from tokenizers import Tokenizer as RawTokenizer

from .sample_tokenizers import byte_fallback_raw, byte_level_raw

FOLDER = Path(__file__).parent / "chat_templates"
IM = "<|im_start|> <|im_end|> <|endoftext|>"
CALLS = "<tool_call> </tool_call> <tool_response> </tool_response>"
THOUGHTS = "<think> </think>"


@dataclass(frozen=True)
class Family:
    """A template, the tokens that it writes, and what its conversations may hold."""

    name: str
    special: str
    added: str = ""
    begin: str = ""
    end: str = ""
    kind: str = "byte level"
    options: tuple[dict[str, Any], ...] = ()
    thinks: bool = False
    calls: bool = False

    @property
    def template(self) -> str:
        return (FOLDER / f"{self.name}.jinja").read_text(encoding="utf-8")

    @functools.cached_property
    def raw(self) -> RawTokenizer:
        make = {
            "byte level": byte_level_raw,
            "legacy": byte_fallback_raw,
            "first word only": functools.partial(byte_fallback_raw, legacy=False),
        }[self.kind]
        raw = RawTokenizer.from_str(make().to_str())
        raw.add_special_tokens(
            [AddedToken(text, normalized=False) for text in self.special.split()]
        )
        raw.add_tokens([AddedToken(text, normalized=False) for text in self.added.split()])
        return raw

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(
            self.raw.to_str(),
            begin_token=self.begin,
            end_token=self.end,
            chat_template=self.template,
        )

    @property
    def chat(self) -> ChatTemplate:
        return ChatTemplate(self.template, self.begin, self.end)


FAMILIES = [
    Family("qwen2", IM, CALLS, end="<|im_end|>", calls=True),
    Family(
        "qwen3",
        IM,
        f"{CALLS} {THOUGHTS}",
        end="<|im_end|>",
        options=({"enable_thinking": False}, {"enable_thinking": True}),
        thinks=True,
        calls=True,
    ),
    Family(
        "deepseek_r1",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c> <\uff5cend\u2581of\u2581sentence\uff5c>",
        f"<\uff5cUser\uff5c> <\uff5cAssistant\uff5c> {THOUGHTS}",
        begin="<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        end="<\uff5cend\u2581of\u2581sentence\uff5c>",
        thinks=True,
    ),
    Family("llama2", "<s> </s>", begin="<s>", end="</s>", kind="legacy"),
    Family(
        "llama3",
        "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|>",
        begin="<|begin_of_text|>",
        end="<|eot_id|>",
        options=({"date_string": "1 Jan 2030"},),
        calls=True,
    ),
    Family(
        "mistral",
        "<s> </s> [INST] [/INST] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] [AVAILABLE_TOOLS] "
        "[/AVAILABLE_TOOLS]",
        begin="<s>",
        end="</s>",
        kind="first word only",
        calls=True,
    ),
    Family(
        "gemma3",
        "<bos> <eos> <start_of_turn> <end_of_turn> <start_of_image>",
        begin="<bos>",
        end="<eos>",
    ),
    Family(
        "phi3",
        "<|endoftext|> <|system|> <|user|> <|assistant|> <|end|>",
        end="<|endoftext|>",
    ),
    Family(
        "command_r",
        "<BOS_TOKEN> <|END_OF_TURN_TOKEN|> <|START_OF_TURN_TOKEN|>",
        "<|SYSTEM_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|>",
        begin="<BOS_TOKEN>",
        end="<|END_OF_TURN_TOKEN|>",
    ),
    Family(
        "granite",
        "<|start_of_role|> <|end_of_role|> <|end_of_text|>",
        end="<|end_of_text|>",
        options=({"thinking": True},),
        calls=True,
    ),
    Family("zephyr", "<s> </s>", begin="<s>", end="</s>", kind="legacy"),
    Family(
        "glm4",
        "[gMASK] <sop> <|system|> <|user|> <|assistant|> <|observation|>",
        THOUGHTS,
        options=({"enable_thinking": False},),
        thinks=True,
    ),
    Family(
        "smollm3",
        IM,
        THOUGHTS,
        end="<|im_end|>",
        options=({"enable_thinking": False},),
        thinks=True,
    ),
    Family(
        "gpt_oss",
        "<|start|> <|message|> <|end|> <|channel|> <|call|> <|return|>",
        end="<|return|>",
        options=({"reasoning_effort": "high"},),
        calls=True,
    ),
    Family("vicuna", "<s> </s>", begin="<s>", end="</s>", kind="first word only"),
]
