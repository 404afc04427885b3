"""How text is split before its bytes are merged, by the name that a file has for it (`tokenizer.ggml.pre`).

The names and the expressions are those of llama.cpp (src/llama-vocab.cpp), whose tokens these have to be. An
expression splits what those before it have left whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SHORTENED = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = rf"{SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}"
QWEN_2 = rf"{SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}"
QWEN_3_5 = (
    rf"{SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MARKS = "|.,!?…。，、।۔،"  # noqa: RUF001


def _cased(after: str, digits: str) -> str:
    """Words split where small letters end and capitals begin, each with what may stand `after` it."""
    before = r"[^\r\n\p{L}\p{N}]?"
    words = f"{before}{UPPER}*{LOWER}+{after}|{before}{UPPER}+{LOWER}*{after}"
    return rf"{words}|{digits}|{CASED_REST}"


@dataclass(frozen=True, slots=True)
class Split:
    """How text is split, and what goes with it."""

    expressions: tuple[str, ...]
    whole_words: bool = False
    """Whether a word that is a token is that token, however its bytes would merge."""
    begins: bool = False
    """Whether a text begins with the begin token where the file does not say it."""


_GPT_2 = Split((GPT_2,))
_DIGITS = Split((r"\p{N}", GPT_2))
_QWEN_2 = Split((QWEN_2,))
_CASED = Split((_cased(f"{SHORTENED}?", r"\p{N}{1,3}"),))
_LLAMA_3 = Split((LLAMA_3,), whole_words=True, begins=True)
_DEEPSEEK_3 = Split((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_3))  # noqa: RUF001
_BLOOM = Split((rf" ?[^(\s{MARKS})]+",))
_DEFAULT = Split((r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"))

_NAMED = {
    _DEFAULT: ("", "default"),
    _GPT_2: (
        *("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "mpt", "olmo", "jais"),
        *("trillion", "granite-docling"),
    ),
    _DIGITS: (
        *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        "mellum2",
    ),
    _LLAMA_3: ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0"),
    Split((LLAMA_3,)): ("dbrx", "smaug-bpe", "chatglm-bpe"),
    Split((LLAMA_3,), whole_words=True): ("glm4",),
    _QWEN_2: (
        *("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan"),
        *("solar-open", "grok-2"),
    ),
    Split((QWEN_3_5,)): ("qwen35",),
    _CASED: ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
    Split((_cased("", r"\p{N}"),), whole_words=True, begins=True): ("tekken",),
    _DEEPSEEK_3: ("deepseek-v3", "hunyuan-dense", "joyai-llm"),
    Split((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")): (
        "deepseek-coder",
    ),
    Split((r"[\p{P}\$\+<=>\^~\|`]+", GPT_2, "[0-9][0-9][0-9]")): ("falcon",),
    _BLOOM: ("bloom", "poro-chat", "gpt3-finnish"),
    Split((*_BLOOM.expressions, r"\p{N}")): ("viking",),
}
SPLITS: Mapping[str, Split] = MappingProxyType(
    {name: split for split, names in _NAMED.items() for name in names}
)
