"""Incremental text shows what decoding all at once would, as early as it can and no earlier."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.session.text.text import IncrementalText
from outrider_server.session.text.tokenizer import Tokenizer

from .sample_tokenizers import (
    BEGIN,
    FAMILIES,
    LINES,
    byte_fallback,
    byte_level,
    metaspace,
)

HALF = "\N{REPLACEMENT CHARACTER}"
RICH_TEXT = "the dog \u00e9\u4e2d\U0001f600 \U0001f468\u200d\U0001f469 fox\u0301 \u05d0"
letters = st.characters(exclude_categories=["Cs"], exclude_characters=HALF)
rich_texts = st.text(st.one_of(letters, st.sampled_from(RICH_TEXT)), max_size=40)
by_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())


def tokens_of(tokenizer: Tokenizer, max_size: int = 40) -> st.SearchStrategy[list[int]]:
    """Any ids, special and meaningless ones among them; bytes of characters more often."""
    size = tokenizer.vocabulary_size
    lone = [t for t in range(size) if HALF in tokenizer.decode([t], special=True)]
    favoured = st.sampled_from(lone) if lone else st.nothing()
    return st.lists(st.one_of(st.integers(0, size + 3), favoured), max_size=max_size)


def pieces(tokenizer: Tokenizer, context: list[int], tokens: list[int]) -> list[str]:
    text = IncrementalText(tokenizer, context)
    return [*(text.push(token) for token in tokens), text.flush()]


def added(before: str, after: str) -> str:
    """What `after` adds to `before`, a character that `before` began and `after` ends included."""
    if after.startswith(before):
        return after[len(before) :]
    assert before.endswith(HALF)
    assert after.startswith(before[:-1])
    return after[len(before) - 1 :]


def fallback_text(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The text of byte-fallback tokens: stretches of bytes, what is invalid in them replaced."""
    stretches: list[tuple[bool, bytes]] = [(False, b"")]
    for token in tokens:
        written = tokenizer._raw.id_to_token(token)
        if tokenizer.is_silent(token):
            continue
        byte = re.fullmatch("<0x(..)>", written)
        piece = bytes.fromhex(byte[1]) if byte else written.replace("\u2581", " ").encode()
        if stretches[-1][0] == bool(byte):
            piece = stretches.pop()[1] + piece
        stretches.append((bool(byte), piece))
    return "".join(piece.decode(errors="replace") for _, piece in stretches).removeprefix(" ")


@given(data=st.data())
def test_byte_level_pieces_are_what_decoding_at_once_adds(data):
    tokenizer = byte_level()
    context = data.draw(tokens_of(tokenizer))
    tokens = data.draw(tokens_of(tokenizer))
    before = tokenizer.decode(context, special=False)
    after = tokenizer.decode(context + tokens, special=False)
    assert "".join(pieces(tokenizer, context, tokens)) == added(before, after)


@given(data=st.data())
def test_metaspace_pieces_are_what_decoding_at_once_adds(data):
    tokenizer = metaspace()
    context = data.draw(tokens_of(tokenizer))
    tokens = data.draw(tokens_of(tokenizer))
    before = tokenizer.decode(context, special=False)
    after = tokenizer.decode(context + tokens, special=False)
    assert "".join(pieces(tokenizer, context, tokens)) == added(before, after)


@pytest.mark.parametrize("legacy", [True, False])
@given(data=st.data())
def test_byte_fallback_pieces_are_the_bytes_with_the_invalid_replaced(legacy, data):
    tokenizer = byte_fallback(legacy)
    context = data.draw(tokens_of(tokenizer))
    tokens = data.draw(tokens_of(tokenizer))
    before = fallback_text(tokenizer, context)
    after = fallback_text(tokenizer, context + tokens)
    assert "".join(pieces(tokenizer, context, tokens)) == added(before, after)


def test_two_invalid_bytes_that_end_the_context_are_not_the_turns():
    """0xED 0xA0 could begin a surrogate: one character that is not ended, two marks of it."""
    tokenizer = byte_fallback(legacy=True)
    begun = [
        next(filter(lambda token: tokenizer.byte_of(token) == byte, range(500)))
        for byte in (0xED, 0xA0)
    ]
    assert pieces(tokenizer, begun, []) == [""]
    assert "".join(pieces(tokenizer, begun, begun)) == "\ufffd" * 2


@by_family
@given(context=rich_texts, text=rich_texts)
def test_pieces_of_text_are_what_decoding_at_once_adds(make, context, text):
    tokenizer = make()
    context, tokens = (tokenizer.encode(part, begin=False) for part in (context, text))
    before = tokenizer.decode(context, special=False)
    after = tokenizer.decode(context + tokens, special=False)
    assert "".join(pieces(tokenizer, context, tokens)) == added(before, after)


@by_family
@given(text=rich_texts)
def test_half_a_character_is_never_shown(make, text):
    tokenizer = make()
    tokens = tokenizer.encode(text, begin=False)
    shown = pieces(tokenizer, [], tokens)
    assert HALF not in "".join(shown)
    assert shown[-1] == ""


@given(data=st.data())
def test_nothing_but_the_last_character_is_held_back(data):
    tokenizer = byte_level()
    tokens = data.draw(tokens_of(tokenizer))
    text = IncrementalText(tokenizer)
    shown = ""
    for count, token in enumerate(tokens, 1):
        shown += text.push(token)
        whole = tokenizer.decode(tokens[:count], special=False)
        assert shown == whole.removesuffix(HALF)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_invalid_bytes_are_not_held_back_for_ever(make):
    tokenizer = make()
    emoji = tokenizer.encode("dog\U0001f600", begin=False)
    lead = emoji[-4]
    text = IncrementalText(tokenizer)
    shown = [text.push(lead) for _ in range(100)]
    assert shown == ["", *[HALF] * 99]
    assert text.flush() == HALF


@by_family
def test_special_and_meaningless_tokens_have_no_text(make):
    tokenizer = make()
    dog = tokenizer.encode("the lazy dog", begin=False)
    text = IncrementalText(tokenizer, dog)
    silent = [tokenizer.begin_token_id, tokenizer.end_token_id, tokenizer.vocabulary_size + 7]
    assert [text.push(token) for token in silent] == ["", "", ""]
    assert text.flush() == ""


def test_a_character_goes_on_after_a_special_token():
    tokenizer = byte_level()
    first, second, *_ = tokenizer.encode("\u00e9", begin=False)
    text = IncrementalText(tokenizer)
    shown = [text.push(token) for token in (first, tokenizer.end_token_id, second)]
    assert shown == ["", "", "\u00e9"]


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_a_character_that_the_context_began_is_shown_when_the_turn_ends_it(make):
    tokenizer = make()
    *context, last = tokenizer.encode("dog\U0001f600", begin=False)
    text = IncrementalText(tokenizer, context)
    assert text.push(last) == "\U0001f600"


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_a_character_that_the_context_began_and_nobody_ended_is_not_the_turns(make):
    tokenizer = make()
    context = tokenizer.encode("dog\U0001f600", begin=False)[:-1]
    dog = tokenizer.encode("dog dog", begin=False)[-1]
    text = IncrementalText(tokenizer, context)
    assert text.push(dog) == " dog"


def test_a_leading_space_is_kept_after_a_context_and_dropped_without_one():
    tokenizer = byte_fallback()
    tokens = tokenizer.encode("dog", begin=True)
    assert "".join(pieces(tokenizer, [], tokens)) == "dog"
    assert "".join(pieces(tokenizer, [tokenizer.begin_token_id], tokens)) == "dog"
    assert "".join(pieces(tokenizer, tokens, tokens)) == " dog"


def test_special_tokens_between_do_not_hide_the_context():
    tokenizer = byte_fallback()
    tokens = tokenizer.encode("dog", begin=True)
    context = [*tokens, *[tokenizer.end_token_id] * 100]
    assert "".join(pieces(tokenizer, context, tokens)) == " dog"


@by_family
def test_a_token_costs_the_same_however_long_the_text_is(make, monkeypatch):
    tokenizer = make()
    tokens = tokenizer.encode(" ".join(LINES), begin=False) * 3
    text = IncrementalText(tokenizer, tokens)
    decoded: list[int] = []
    decode = tokenizer.decode
    monkeypatch.setattr(
        tokenizer,
        "decode",
        lambda tokens, special: decoded.append(len(tokens)) or decode(tokens, special=special),
    )
    for token in tokens:
        text.push(token)
    assert max(decoded) <= 9
    assert len(decoded) <= 2 * len(tokens)


def test_the_begin_tokens_text_is_never_shown():
    tokenizer = byte_level()
    assert pieces(tokenizer, [], [tokenizer.begin_token_id]) == ["", ""]
    assert BEGIN in tokenizer._control.values()
