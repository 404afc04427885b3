"""Where a text stands: as the library begins one, or on after what the session holds."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outrider_server.session.text.tokenizer import RenderedText, Tokenizer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import normalizers, pre_tokenizers, processors

from .sample_tokenizers import (
    BEGIN,
    END,
    FAMILIES,
    LINES,
    THINK,
    TURN,
    byte_fallback,
    byte_fallback_raw,
    byte_level,
    byte_level_raw,
    byte_level_spaced,
    unigram,
    wrapped,
)

families = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())
LOSSLESS = {
    "byte level": byte_level,
    "byte level, a space in front": byte_level_spaced,
    "byte fallback": byte_fallback,
    "byte fallback, first word only": lambda: byte_fallback(legacy=False),
}
PIECES = st.sampled_from(
    ["the", "lo", " ", "  ", "\n", "\t", BEGIN, END, TURN, "<unk>", THINK, "fox", ".", "\u2603"]
)
texts = st.one_of(
    st.lists(PIECES, max_size=6).map("".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=20),
)


def as_the_library(tokenizer: Tokenizer, text: str) -> list[int]:
    """What the library makes of a text, without what its post-processor puts behind."""
    whole = tokenizer._raw.encode(text)
    mask = "".join(map(str, whole.special_tokens_mask))
    return whole.ids[: len(mask.rstrip("1"))]


@families
@pytest.mark.parametrize("text", [*LINES[:3], " fox", "  fox ", "\n\tdog.\n", "f", "12 dogs"])
def test_a_first_text_is_encoded_as_the_library_does(make, text):
    assert make().encode(text, begin=True) == as_the_library(make(), text)


@families
@given(text=texts)
def test_with_its_control_tokens_a_first_text_is_the_librarys_too(make, text):
    tokenizer = make()
    tokens = tokenizer.encode(text, begin=True, parse_control_tokens=True)
    if not tokenizer._raw.encode(text, add_special_tokens=False).ids:
        assert tokens == []
        return
    expected = as_the_library(tokenizer, text)
    front = tokenizer._begins_with
    if front and expected[len(front) : 2 * len(front)] == front:  # the user wrote it
        expected = expected[len(front) :]
    assert tokens == expected


@pytest.mark.parametrize("make", LOSSLESS.values(), ids=LOSSLESS.keys())
@given(text=texts)
@example(text="lo")
@example(text=" lo")
def test_nothing_is_put_in_front_of_a_later_text(make, text):
    tokenizer = make()
    held = tokenizer.encode("the dog", begin=True)
    decoded = tokenizer.decode(held, special=True)
    later = tokenizer.encode(text, begin=False)
    assert tokenizer.decode([*held, *later], special=True) == decoded + text


@families
@pytest.mark.parametrize("front", ["the quick brown", "dog.", "user:"])
@pytest.mark.parametrize("text", [" fox jumps", " dog.  The", "\nthe lazy dog", ". The fox"])
def test_a_later_text_goes_on_as_in_one_text(make, front, text):
    """Where a word ends between the two."""
    tokenizer = make()
    whole = tokenizer.encode(front + text, begin=True)
    begun = tokenizer.encode(front, begin=True)
    assert [*begun, *tokenizer.encode(text, begin=False)] == whole


def test_words_keep_their_marks_where_white_space_is_cut_away():
    tokenizer = unigram()
    pieces = [
        tokenizer._raw.id_to_token(token) for token in tokenizer.encode("lo the", begin=False)
    ]
    assert pieces == ["l", "o", "\u2581the"]
    pieces = [tokenizer._raw.id_to_token(token) for token in tokenizer.encode(" lo", begin=False)]
    assert pieces == ["\u2581", "l", "o"]


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_only_what_the_tokenizer_says_is_put_in_front_of_a_first_text(scheme):
    raw = RawTokenizer.from_str(byte_fallback_raw(legacy=False).to_str())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer = wrapped(raw)
    assert tokenizer.encode("lo", begin=True) == raw.encode("lo").ids
    assert tokenizer.encode("lo", begin=False) == [raw.token_to_id("l"), raw.token_to_id("o")]
    after_a_control_token = tokenizer.encode(f"{TURN}lo", begin=False, parse_control_tokens=True)
    assert after_a_control_token == raw.encode(f"{TURN}lo").ids


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("begin", [True, False])
def test_no_space_follows_a_control_token_that_is_spelled(legacy, begin):
    tokenizer = byte_fallback(legacy)
    held = tokenizer.encode("the dog", begin=True)
    tokens = tokenizer.encode(f"fox{END}dog", begin=begin)
    decoded = tokenizer.decode([*held, *tokens], special=True)
    assert decoded == f"the dog{' ' if begin else ''}fox{END}dog"
    quoted = RenderedText(f"{TURN}a{END}b", ((len(TURN) + 1, len(TURN) + 1 + len(END)),))
    decoded = tokenizer.decode(tokenizer.encode_rendered(quoted, begin=True), special=True)
    assert decoded == f"{TURN}{' ' if legacy else ''}a{END}b"


@pytest.mark.parametrize(
    ("template", "front", "behind"),
    [
        ("$A", [], []),
        (f"{BEGIN} $A", [BEGIN], []),
        (f"{TURN} {BEGIN} $A", [TURN, BEGIN], []),
        (f"$A {END}", [], [END]),
        (f"{BEGIN} $A {END}", [BEGIN], [END]),
    ],
)
@pytest.mark.parametrize("named", [BEGIN, ""])
@pytest.mark.parametrize("nested", [True, False])
def test_a_session_begins_as_the_post_processor_begins_a_text(
    template, front, behind, named, nested
):
    """Whether or not a configuration names the begin token; and the text is left open behind."""
    raw = RawTokenizer.from_str(byte_level_raw().to_str())
    tokens = [(text, raw.token_to_id(text)) for text in (BEGIN, END, TURN)]
    processor = processors.TemplateProcessing(template, special_tokens=tokens)
    if nested:
        processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processor])
    raw.post_processor = processor
    tokenizer = Tokenizer(raw.to_str(), begin_token=named)
    ids = [raw.token_to_id(text) for text in (*front, *behind)]
    begun = tokenizer.encode("the dog", begin=True)
    assert [*begun, *ids[len(front) :]] == raw.encode("the dog").ids
    assert begun[: len(front)] == ids[: len(front)]
    assert tokenizer.encode("the dog", begin=False) == begun[len(front) :]


def test_white_space_that_is_taken_from_a_texts_beginning_is_left_in_a_later_one():
    raw = RawTokenizer.from_str(byte_level_raw().to_str())
    raw.normalizer = normalizers.Sequence([normalizers.Strip()])
    assert wrapped(raw).encode(" fox", begin=True) == byte_level().encode("fox", begin=True)
    assert wrapped(raw).encode(" fox", begin=False) == byte_level().encode(" fox", begin=False)


def test_a_control_tokens_text_is_encoded_as_if_there_were_no_such_token():
    raw = RawTokenizer.from_str(byte_level_raw().to_str())
    raw.add_special_tokens(["fox"])
    assert wrapped(raw).encode("the fox", begin=True) == byte_level().encode("the fox", begin=True)


def test_a_control_token_that_takes_white_space_in_stays_the_templates():
    """Even where the white space is a user's."""
    state = json.loads(byte_level_raw().to_str())
    for added in state["added_tokens"]:
        added["rstrip"] = added["content"] == TURN
    tokenizer = Tokenizer(json.dumps(state))
    turn = byte_level_raw().token_to_id(TURN)
    rendered = RenderedText(f"{TURN} dog", ((len(TURN), len(TURN) + 4),))
    expected = [turn, *tokenizer.encode("dog", begin=False)]
    assert tokenizer.encode_rendered(rendered, begin=True) == expected


@families
@pytest.mark.parametrize("begin", [True, False])
def test_a_text_without_tokens_has_none_in_front_either(make, begin):
    assert make().encode("", begin=begin) == []


def test_white_space_alone_has_no_tokens_where_words_are_cut_at_it():
    assert FAMILIES["word pieces"]().encode(" \u200b\0", begin=True) == []
    assert unigram().encode("  ", begin=True) == []
