"""Chat templates in the ways of several families of models, over the bundled tokenizer.

A style gives the last ids of the vocabulary to its marks, so that a model of that vocabulary can write them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import transformers
from outrider_server.core.description import ModelDescription, TokenizerFiles
from outrider_server.models import TARGET_FOLDER
from outrider_server.session.text.model import ServedModel
from tokenizers import Tokenizer

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Style:
    """A template, its special tokens, and other marks that it writes and a model may write too."""

    template: str
    end: str
    begin: str = "<|endoftext|>"
    specials: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    def tokenizer_json(self) -> str:
        """The bundled tokenizer, its last words replaced by the marks."""
        state = json.loads((TARGET_FOLDER / "tokenizer.json").read_text())
        vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
        names = {index: word for word, index in vocabulary.items()}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for content in (*self.specials, *self.marks):
            merges.pop()
            token = len(names) - 1
            del vocabulary[names.pop(token)]
            vocabulary[content] = token
            special = content in self.specials
            state["added_tokens"].append(
                {"id": token, "content": content, "special": special, **flags}
            )
        return json.dumps(state)

    def served(self, description: ModelDescription, files: TokenizerFiles) -> ServedModel:
        """The target in this style."""
        tokenizer_json = self.tokenizer_json()
        end = Tokenizer.from_str(tokenizer_json).token_to_id(self.end)
        return ServedModel.of(
            replace(description, end_token_ids=(end,)),
            replace(
                files,
                tokenizer_json=tokenizer_json.encode(),
                begin_token=self.begin,
                end_token=self.end,
                chat_template=self.template,
            ),
        )

    def peer(self) -> transformers.PreTrainedTokenizerFast:
        """The same in transformers."""
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(self.tokenizer_json()),
            bos_token=self.begin,
            eos_token=self.end,
            chat_template=self.template,
        )


CHAT_MARKS = """\
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
HEADERS = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header|>' + message.role + '<|end_header|>\\n\\n' + message.content | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header|>assistant<|end_header|>\\n\\n' }}{% endif %}
"""
INSTRUCTIONS = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}
    {%- else %}{{ ' ' + message.content + eos_token }}{% endif %}
{%- endfor %}
"""
TURNS = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set first = messages[0].content + '\\n\\n' %}{% set rest = messages[1:] %}
{%- else %}{% set first, rest = '', messages %}{% endif %}
{%- for message in rest %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\\n' + (first if loop.first else '') + message.content | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
FORGETS_THOUGHTS = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{ message.content }}
    {%- elif message.role == 'user' %}{{ '<|User|>' + message.content }}
    {%- else %}{{ '<|Assistant|>' + message.content.split('</think>')[-1] + eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}
"""
LAST_THOUGHTS = """\
{%- set last = namespace(user=0) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and loop.index0 < last.user %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if quick is defined and quick %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""
THINK = ("<think>", "</think>")
IM = ("<|im_start|>", "<|im_end|>")
STYLES = {
    "marks around messages, a system prompt of its own": Style(
        CHAT_MARKS, "<|im_end|>", specials=IM
    ),
    "a begin token and headers": Style(
        HEADERS, "<|eot|>", specials=("<|start_header|>", "<|end_header|>", "<|eot|>")
    ),
    "instructions that alternate": Style(INSTRUCTIONS, "</s>", "<s>", specials=("<s>", "</s>")),
    "turns, the system's words in the first": Style(
        TURNS, "<end_of_turn>", specials=("<start_of_turn>", "<end_of_turn>")
    ),
    "forgets what was thought": Style(
        FORGETS_THOUGHTS, "<|eos|>", specials=("<|User|>", "<|Assistant|>", "<|eos|>"), marks=THINK
    ),
    "forgets what was thought before the last question": Style(
        LAST_THOUGHTS, "<|im_end|>", specials=IM, marks=THINK
    ),
}
