"""The tokenizer of the pair: byte-level BPE, trained on the training split.

Owns the vocabulary, the special token and the chat template, and writes the files
that both model folders share byte for byte.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .corpus import SourceFile

VOCABULARY_SIZE = 4096
DOCUMENT_START = "<|endoftext|>"

# Runs of spaces and newlines stay whole and apart, so that indentation is one token
# and a prompt may end at a newline. A word takes the one space or mark before it.
PIECE_PATTERN = r" {2,}|[^\w\r\n]?[^\W\d]+| ?\d| ?[^\w\s]+|\n+|\s"

# The models complete Python source: what people say becomes comments, what the
# model says is source.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if not loop.first -%}{{ '\\n' }}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ message['content'] }}"
    "{%- else -%}"
    "{{ '# ' ~ message['role'] ~ ': ' ~ (message['content'] | replace('\\n', '\\n# ')) }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '\\n' }}{%- endif -%}"
)


def train_tokenizer(files: tuple[SourceFile, ...]) -> Tokenizer:
    """Train on `files`; every byte sequence encodes, and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[DOCUMENT_START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((file.text for file in files), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise ValueError(f"vocabulary of {tokenizer.get_vocab_size()}, not {VOCABULARY_SIZE}")
    return tokenizer


def document_start_id(tokenizer: Tokenizer) -> int:
    """The id of the token before every document, which is also the end of one."""
    identifier = tokenizer.token_to_id(DOCUMENT_START)
    if identifier is None:
        raise ValueError(f"the tokenizer lacks {DOCUMENT_START}")
    return identifier


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_context_tokens: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": DOCUMENT_START,
        "eos_token": DOCUMENT_START,
        "pad_token": DOCUMENT_START,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_context_tokens,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
