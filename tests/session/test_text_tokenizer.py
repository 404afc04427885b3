"""The tokenizer: what users write is text, and only the template writes control tokens."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outrider_server.session.text.tokenizer import RenderedText, Tokenizer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers

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
    wrapped,
)

CONTROL_LIKE = st.lists(
    st.sampled_from([BEGIN, END, TURN, "<unk>", THINK, "<", "|", ">", "the", " ", "\n", "\u2603"]),
    max_size=8,
).map("".join)
texts = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), CONTROL_LIKE)


def control_ids(tokenizer: Tokenizer) -> set[int]:
    ids = {tokenizer._raw.token_to_id(text) for text in tokenizer._control.values()}
    return {token for token in ids if token is not None}


@given(text=texts)
def test_decoding_what_was_encoded_gives_the_text(text):
    tokenizer = byte_level()
    assert tokenizer.decode(tokenizer.encode(text, begin=False), special=True) == text


@pytest.mark.parametrize("legacy", [True, False])
@given(text=texts)
@example(text="\u2581")
def test_sentencepiece_decoding_gives_the_text_but_for_spaces(legacy, text):
    """Its own normalisation adds and drops spaces at the beginning, and after control tokens.

    It writes a space as U+2581, so that the two are one to it.
    """
    tokenizer = byte_fallback(legacy)
    decoded = tokenizer.decode(tokenizer.encode(text, begin=False), special=True)
    assert decoded.replace(" ", "") == text.replace("\u2581", " ").replace(" ", "")


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())
@given(text=texts)
def test_users_cannot_write_control_tokens(make, text):
    tokenizer = make()
    unknown = tokenizer._raw.token_to_id("<unk>")
    tokens = tokenizer.encode(text, begin=False)
    assert control_ids(tokenizer).isdisjoint(set(tokens) - {unknown})


def test_a_model_without_a_begin_token_gets_none():
    tokenizer = Tokenizer(byte_level_raw().to_str())
    assert tokenizer.begin_token_id is None
    assert tokenizer.encode("dog", begin=True) == tokenizer.encode("dog", begin=False)


def test_a_rendered_text_keeps_its_begin_token_only_where_it_begins_a_session():
    tokenizer = byte_level()
    dog = tokenizer.encode("dog", begin=False)
    begun = RenderedText(f"{BEGIN}dog")
    assert tokenizer.encode_rendered(begun, begin=True) == [tokenizer.begin_token_id, *dog]
    assert tokenizer.encode_rendered(begun, begin=False) == dog
    assert tokenizer.encode_rendered(RenderedText("dog"), begin=True) == dog


def test_templates_write_control_tokens_and_messages_spell_them():
    tokenizer = byte_level()
    rendered = RenderedText(f"{TURN}{TURN}{TURN}", ((len(TURN), 2 * len(TURN)),))
    tokens = tokenizer.encode_rendered(rendered, begin=False)
    turn = byte_level_raw().token_to_id(TURN)
    assert tokens == [turn, *tokenizer.encode(TURN, begin=False), turn]
    assert tokens.count(turn) == 2


def test_an_assistant_spells_special_tokens_and_writes_the_others():
    tokenizer = wrapped(byte_level_raw(), chat_template=f"...{THINK}...")
    think, text = byte_level_raw().token_to_id(THINK), f"{THINK}{TURN}"
    spelled = tokenizer.encode(TURN, begin=False)
    spoken = RenderedText(f"{TURN}{text}{TURN}", spoken=((len(TURN), len(TURN) + len(text)),))
    turn = byte_level_raw().token_to_id(TURN)
    assert tokenizer.encode_rendered(spoken, begin=False) == [turn, think, *spelled, turn]


@pytest.mark.parametrize("legacy", [True, False])
def test_spelling_a_control_token_adds_no_space_to_what_users_wrote(legacy):
    tokenizer = wrapped(byte_fallback_raw(legacy))
    tokens = tokenizer.encode(f"dog{END}", begin=False)
    assert tokenizer.decode(tokens, special=False) == f"dog{END}"


def test_an_added_token_is_a_control_token_when_the_template_writes_it():
    think = byte_level_raw().token_to_id(THINK)
    assert think in byte_level().encode(THINK, begin=False)
    guarded = wrapped(byte_level_raw(), chat_template=f"...{THINK}...")
    assert think not in guarded.encode(THINK, begin=False)
    assert guarded.decode([think], special=False) == THINK


def test_a_vocabulary_that_knows_a_control_token_as_a_word_still_spells_it():
    words = {"<unk>": 0, END: 1, "<": 2, "/": 3, "s": 4, ">": 5, "dog": 6}
    raw = RawTokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens([END])
    assert Tokenizer(raw.to_str()).encode(f"dog {END} dog", begin=False) == [6, 2, 3, 4, 5, 6]


def test_unknown_characters_stay_the_unknown_token():
    tokenizer = FAMILIES["metaspace"]()
    assert tokenizer._raw.token_to_id("<unk>") in tokenizer.encode("dog \u2603", begin=False)


def test_decoding_shows_special_tokens_only_where_asked_for():
    tokenizer = byte_level()
    tokens = tokenizer.encode_rendered(RenderedText(f"{BEGIN}dog"), begin=True)
    assert tokenizer.decode(tokens, special=False) == "dog"
    assert tokenizer.decode(tokens, special=True) == f"{BEGIN}dog"


def test_truncation_and_padding_of_the_file_are_ignored():
    raw = RawTokenizer.from_str(byte_level_raw().to_str())
    raw.enable_truncation(2)
    raw.enable_padding(length=50)
    assert wrapped(raw).encode(LINES[0], begin=True) == byte_level().encode(LINES[0], begin=True)


def test_the_vocabulary_counts_added_tokens():
    assert byte_level().vocabulary_size == byte_level_raw().token_to_id(THINK) + 1


def test_a_file_without_meaning_is_refused():
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer("{}")


def test_a_begin_token_that_is_not_in_the_file_is_refused():
    with pytest.raises(ValueError, match="lacks"):
        Tokenizer(byte_level_raw().to_str(), begin_token="<nothing>")
