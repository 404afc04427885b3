"""Small tokenizers of the families that matter, trained in a moment."""

import functools
import json

from outrider_server.session.text.tokenizer import Tokenizer
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as RawTokenizer

LINES = [
    "def fibonacci(number): return the sum of the two numbers before it",
    "The quick brown fox jumps over the lazy dog, and then over the dog again.",
    "user assistant system [INST] the weather is fine today, is it not? \N{REPLACEMENT CHARACTER}",
] * 3
BEGIN, END, TURN, THINK = "<s>", "</s>", "<|turn|>", "<think>"


def _train(raw: RawTokenizer, alphabet: list[str], specials: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 300,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    raw.train_from_iterator(LINES, trainer)


@functools.cache
def byte_level_raw() -> RawTokenizer:
    """As GPT-2's: every byte is in the vocabulary, rare characters take several tokens."""
    raw = RawTokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]+|\s+"), behavior="isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    _train(raw, sorted(pre_tokenizers.ByteLevel.alphabet()), [BEGIN, END, TURN])
    raw.add_tokens([AddedToken(THINK, special=False, normalized=False)])
    return raw


@functools.cache
def byte_fallback_raw(legacy: bool = True) -> RawTokenizer:
    """As Llama 2's: words begin with U+2581, and unknown characters are spelled in byte tokens.

    The legacy kind puts a space before every stretch between special tokens, the other kind before
    the first alone.
    """
    raw = RawTokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    _train(raw, [], ["<unk>", BEGIN, END, TURN])
    state = json.loads(raw.to_str())
    model = state["model"]
    for byte in range(256):
        model["vocab"][f"<0x{byte:02X}>"] = len(model["vocab"])
    model["byte_fallback"] = True
    raw = RawTokenizer.from_str(json.dumps(state))
    if legacy:
        raw.pre_tokenizer = None
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw.add_tokens([AddedToken(THINK, special=False, normalized=False)])
    return raw


@functools.cache
def metaspace_raw() -> RawTokenizer:
    """Words begin with U+2581 and the decoder treats a text's first word apart."""
    raw = RawTokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.decoder = decoders.Metaspace(prepend_scheme="always")
    _train(raw, [], ["<unk>", BEGIN, END, TURN])
    return raw


@functools.cache
def byte_level_spaced_raw() -> RawTokenizer:
    """As RoBERTa's: byte level with a space before the first word, and a text between two tokens."""
    raw = RawTokenizer.from_str(byte_level_raw().to_str())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    begin, end = ((text, raw.token_to_id(text)) for text in (BEGIN, END))
    raw.post_processor = processors.RobertaProcessing(end, begin)
    return raw


@functools.cache
def unigram_raw() -> RawTokenizer:
    """As T5's: text is cut at white space, each word begins with U+2581, and an end token follows."""
    raw = RawTokenizer(models.Unigram())
    raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=["<unk>", BEGIN, END, TURN],
        unk_token="<unk>",
        show_progress=False,
    )
    raw.train_from_iterator(LINES, trainer)
    end = (END, raw.token_to_id(END))
    raw.post_processor = processors.TemplateProcessing(f"$A {END}", special_tokens=[end])
    return raw


@functools.cache
def word_piece_raw() -> RawTokenizer:
    """As BERT's: words in small letters, their later pieces marked, and a text between two tokens."""
    raw = RawTokenizer(models.WordPiece(unk_token="<unk>"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    specials = ["<unk>", BEGIN, END, TURN]
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=specials, show_progress=False
    )
    raw.train_from_iterator(LINES, trainer)
    begin, end = ((text, raw.token_to_id(text)) for text in (BEGIN, END))
    raw.post_processor = processors.BertProcessing(end, begin)
    return raw


def wrapped(raw: RawTokenizer, chat_template: str = "") -> Tokenizer:
    return Tokenizer(raw.to_str(), begin_token=BEGIN, end_token=END, chat_template=chat_template)


@functools.cache
def byte_level() -> Tokenizer:
    return wrapped(byte_level_raw())


@functools.cache
def byte_fallback(legacy: bool = True) -> Tokenizer:
    return wrapped(byte_fallback_raw(legacy))


@functools.cache
def metaspace() -> Tokenizer:
    return wrapped(metaspace_raw())


@functools.cache
def byte_level_spaced() -> Tokenizer:
    return wrapped(byte_level_spaced_raw())


@functools.cache
def unigram() -> Tokenizer:
    return wrapped(unigram_raw())


@functools.cache
def word_piece() -> Tokenizer:
    return wrapped(word_piece_raw())


FAMILIES = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "byte fallback, first word only": lambda: byte_fallback(legacy=False),
    "metaspace": metaspace,
    "byte level, a space in front": byte_level_spaced,
    "unigram": unigram,
    "word pieces": word_piece,
}
