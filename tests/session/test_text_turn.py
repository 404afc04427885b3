"""Where a turn ends and what it shows, against a reference that reads all anew for each token."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.core.errors import InvalidRequest
from outrider_server.core.types import Accepted, FinishReason
from outrider_server.session.text.stops import StopStrings
from outrider_server.session.text.text import IncrementalText
from outrider_server.session.text.tokenizer import Tokenizer
from outrider_server.session.text.turn_text import TurnText

from .sample_tokenizers import END, TURN, byte_fallback, byte_level, byte_level_raw

ALPHABET = "ab\u00e9\U0001f600"
stops_lists = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=4)


def turn(tokenizer: Tokenizer, **options) -> TurnText:
    options = {"max_new_tokens": 1000, "room": 1000, **options}
    return TurnText(tokenizer, [], **options)


def shown_of(tokens: list[int], tokenizer: Tokenizer, is_last: bool) -> str:
    text = IncrementalText(tokenizer)
    shown = "".join(text.push(token) for token in tokens)
    return shown + text.flush() if is_last else shown


def ends_undecided(text: str, stops: list[str]) -> int:
    lengths = {k for stop in stops for k in range(len(stop)) if text.endswith(stop[:k])}
    return max(lengths, default=0)


def reference(
    tokenizer: Tokenizer, tokens: list[int], stops: list[str], end: int, limit: int
) -> Accepted:
    """The rule in plain words, over the whole text, token by token."""
    totals = [""]
    for count in range(1, len(tokens) + 1):
        is_end, is_last = tokens[count - 1] == end, count == limit or tokens[count - 1] == end
        spoken = tokens[: count - 1] if is_end else tokens[:count]
        text = shown_of(spoken, tokenizer, is_last)
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        reason = None
        if found:
            totals.append(text[: min(found)[1]])
            reason = FinishReason.STOP_STRING
        elif is_last:
            totals.append(text)
            reason = FinishReason.LENGTH
        else:
            totals.append(text[: len(text) - ends_undecided(text, stops)])
        if is_end:
            reason = FinishReason.END_TOKEN
        if reason:
            break
    texts = tuple(after[len(before) :] for before, after in pairwise(totals))
    return Accepted(len(texts), texts, reason if tokens else None)


@st.composite
def turns(draw):
    tokenizer = draw(st.sampled_from([byte_level, byte_fallback]))()
    # The letters of the stop strings, whole or as bytes, so that they meet.
    written = tokenizer.encode(ALPHABET + "ba ab", begin=False)
    choice = st.sampled_from([*written, tokenizer.begin_token_id])
    tokens = draw(st.lists(choice, max_size=30))
    if draw(st.booleans()):
        tokens = tokenizer.encode(draw(st.text(ALPHABET, max_size=20)), begin=False) + tokens
    if draw(st.booleans()):
        tokens.insert(draw(st.integers(0, len(tokens))), tokenizer.end_token_id)
    return tokenizer, tokens, draw(stops_lists), draw(st.integers(1, 40))


@given(turns())
def test_a_turn_is_what_the_plain_rule_says(drawn):
    tokenizer, tokens, stops, limit = drawn
    end = tokenizer.end_token_id
    text = turn(tokenizer, stop=stops, end_tokens=[end], max_new_tokens=limit)
    assert text.accept(tokens) == reference(tokenizer, tokens, stops, end, limit)


@given(turns(), st.data())
def test_grouping_tokens_into_calls_changes_nothing(drawn, data):
    tokenizer, tokens, stops, limit = drawn
    options = {"stop": stops, "end_tokens": [tokenizer.end_token_id], "max_new_tokens": limit}
    whole = turn(tokenizer, **options).accept(tokens)
    grouped = turn(tokenizer, **options)
    texts: tuple[str, ...] = ()
    reason = None
    rest = tokens
    while rest and reason is None:
        size = data.draw(st.integers(0, len(rest)))
        accepted = grouped.accept(rest[:size])
        assert accepted.kept == len(accepted.texts)
        texts += accepted.texts
        reason = accepted.finish_reason
        rest = rest[size:]
    assert Accepted(len(texts), texts, reason) == whole


@given(st.text("ab", max_size=30), stops_lists, st.data())
def test_cutting_a_text_into_pieces_changes_nothing(text, stops, data):
    whole = StopStrings(stops)
    expected, is_stopped = whole.feed(text)
    expected += "" if is_stopped else whole.flush()
    pieced, shown, stopped = StopStrings(stops), "", False
    rest = text
    while rest and not stopped:
        size = data.draw(st.integers(1, len(rest)))
        piece, stopped = pieced.feed(rest[:size])
        shown, rest = shown + piece, rest[size:]
    shown += "" if stopped else pieced.flush()
    assert (shown, stopped) == (expected, is_stopped)


def test_a_stop_string_across_token_borders_is_never_shown():
    tokenizer = byte_level()
    tokens = tokenizer.encode("the fox", begin=False) + tokenizer.encode("!?", begin=False)
    text = turn(tokenizer, stop=["x!?"])
    accepted = text.accept([*tokens, *tokens])
    assert accepted.kept == len(tokens)
    assert "".join(accepted.texts) == "the fo"
    assert accepted.finish_reason is FinishReason.STOP_STRING


def test_what_was_held_back_is_shown_when_no_stop_string_came():
    tokenizer = byte_level()
    tokens = tokenizer.encode("a!b", begin=False)
    accepted = turn(tokenizer, stop=["!?"]).accept(tokens)
    assert accepted.texts == ("a", "", "!b")


def test_what_was_held_back_is_shown_with_the_last_token():
    tokenizer = byte_level()
    tokens = tokenizer.encode("a!", begin=False)
    accepted = turn(tokenizer, stop=["!?"], max_new_tokens=2).accept(tokens)
    assert accepted == Accepted(2, ("a", "!"), FinishReason.LENGTH)
    accepted = turn(tokenizer, stop=["!?"], end_tokens=[7]).accept([*tokens, 7])
    assert accepted == Accepted(3, ("a", "", "!"), FinishReason.END_TOKEN)


def test_half_a_character_is_shown_as_such_with_the_last_token():
    tokenizer = byte_level()
    first, *_ = tokenizer.encode("\u00e9", begin=False)
    assert turn(tokenizer, room=1).accept([first]).texts == ("\N{REPLACEMENT CHARACTER}",)


def test_the_stop_string_that_is_complete_first_ends_the_turn():
    tokenizer = byte_level()
    tokens = tokenizer.encode("a b c", begin=False)
    accepted = turn(tokenizer, stop=["a b c", " b", "b c"]).accept(tokens)
    assert "".join(accepted.texts) == "a"
    assert accepted.kept == 2


def test_a_stop_string_inside_a_longer_one_ends_the_text_before_that_is_complete():
    assert StopStrings(["abc", "b"]).feed("abcd") == ("a", True)


def test_of_stop_strings_complete_together_the_longest_is_hidden():
    assert StopStrings(["cd", "bcd", "d"]).feed("abcde") == ("a", True)


def test_a_stop_string_counts_only_what_the_turn_wrote():
    tokenizer = byte_level()
    one, two = tokenizer.encode("!", begin=False), tokenizer.encode("?", begin=False)
    text = TurnText(tokenizer, one, stop=["!?"], max_new_tokens=5, room=5)
    assert text.accept(two) == Accepted(1, ("?",), None)


@pytest.mark.parametrize(("max_new_tokens", "room"), [(2, 9), (9, 2), (2, 2)])
def test_the_turn_ends_at_the_nearer_limit(max_new_tokens, room):
    tokenizer = byte_level()
    tokens = tokenizer.encode("a b c d e", begin=False)
    accepted = turn(tokenizer, max_new_tokens=max_new_tokens, room=room).accept(tokens)
    assert accepted == Accepted(2, ("a", " b"), FinishReason.LENGTH)


def test_an_end_token_comes_before_a_stop_string_and_the_limit():
    tokenizer = byte_level()
    lead = tokenizer.encode("\u00e9", begin=False)[0]
    options = {"stop": ["\N{REPLACEMENT CHARACTER}"], "end_tokens": [tokenizer.end_token_id]}
    accepted = turn(tokenizer, **options, max_new_tokens=2).accept([lead, tokenizer.end_token_id])
    assert accepted == Accepted(2, ("", ""), FinishReason.END_TOKEN)


def test_a_stop_string_comes_before_the_limit():
    tokenizer = byte_level()
    tokens = tokenizer.encode("a b", begin=False)
    accepted = turn(tokenizer, stop=[" b"], max_new_tokens=2).accept(tokens)
    assert accepted == Accepted(2, ("a", ""), FinishReason.STOP_STRING)


def test_an_end_token_has_no_text_even_when_it_is_an_ordinary_one():
    tokenizer = byte_level()
    a, b = tokenizer.encode("a b", begin=False)
    accepted = turn(tokenizer, end_tokens=[b]).accept([a, b, a])
    assert accepted == Accepted(2, ("a", ""), FinishReason.END_TOKEN)


def test_an_end_tokens_text_typed_by_the_model_in_letters_ends_nothing():
    tokenizer = byte_level()
    tokens = tokenizer.encode(END, begin=False)
    accepted = turn(tokenizer, end_tokens=[tokenizer.end_token_id]).accept(tokens)
    assert (accepted.finish_reason, "".join(accepted.texts)) == (None, END)


@pytest.mark.parametrize(
    ("stop", "shown", "kept"),
    [
        ([TURN], "a", 2),
        ([f"{TURN}b"], "a", 3),
        ([f"a{TURN}"], "", 2),
        ([f"b{TURN}", "never"], "a", 4),
        (["b", TURN], "a", 2),
        ([f"{TURN}c", "b"], "a", 3),
        (["ab"], "", 3),
        ([f"{TURN}{TURN}"], "ab", 5),
    ],
)
def test_a_special_token_counts_as_its_text_where_a_stop_string_holds_that(stop, shown, kept):
    """And is never shown; without such a stop string the texts beside it are one."""
    tokenizer = byte_level()
    (a,), (b,) = (tokenizer.encode(letter, begin=False) for letter in "ab")
    special = byte_level_raw().token_to_id(TURN)
    tokens = [a, special, b, special, special, a]
    whole = turn(tokenizer, stop=stop).accept(tokens)
    assert "".join(whole.texts) == shown
    assert (whole.kept, whole.finish_reason) == (kept, FinishReason.STOP_STRING)
    one_by_one = turn(tokenizer, stop=stop)
    texts = [one_by_one.accept([token]).texts for token in tokens[:kept]]
    assert tuple(text for group in texts for text in group) == whole.texts


def test_what_was_held_back_for_a_special_token_is_shown_without_it():
    tokenizer = byte_level()
    (a,), (b,) = (tokenizer.encode(letter, begin=False) for letter in "ab")
    special = byte_level_raw().token_to_id(TURN)
    stop = [f"a{TURN}a{TURN}x"]
    accepted = turn(tokenizer, stop=stop).accept([a, special, a, special, b, a])
    assert accepted.texts == ("", "", "", "", "aab", "")
    limited = turn(tokenizer, stop=stop, max_new_tokens=4).accept([a, special, a, special])
    assert limited == Accepted(4, ("", "", "", "aa"), FinishReason.LENGTH)


def test_a_hidden_text_stays_hidden_where_only_what_is_before_it_is_shown():
    stops = StopStrings(["a<t>ab", "<t>acd"])
    pieces = [stops.feed("a"), stops.feed("", "<t>"), stops.feed("a"), stops.feed("c")]
    assert pieces == [("", False), ("", False), ("", False), ("a", False)]
    assert stops.feed("x") == ("acx", False)


def test_an_end_token_ends_the_turn_as_such_though_a_stop_string_names_it():
    tokenizer = byte_level()
    (a,) = tokenizer.encode("a", begin=False)
    end = tokenizer.end_token_id
    accepted = turn(tokenizer, stop=[f"a{END}"], end_tokens=[end]).accept([a, end])
    assert accepted == Accepted(2, ("", ""), FinishReason.END_TOKEN)


def test_no_tokens_decide_nothing():
    assert turn(byte_level()).accept([]) == Accepted(0, (), None)


def test_a_turn_that_has_ended_takes_nothing_more():
    text = turn(byte_level(), max_new_tokens=1)
    text.accept([5])
    with pytest.raises(ValueError, match="ended"):
        text.accept([5])


@pytest.mark.parametrize("stop", [[""], ["a"] * 17, ["a" * 257], ["a", ""]])
def test_a_stop_list_outside_its_range_is_refused(stop):
    with pytest.raises(InvalidRequest) as refused:
        turn(byte_level(), stop=stop)
    assert refused.value.field == "stop"


def test_the_largest_stop_list_is_taken():
    StopStrings([chr(ord("a") + number) * 256 for number in range(16)])


def test_a_turn_of_no_tokens_is_refused():
    with pytest.raises(InvalidRequest) as refused:
        turn(byte_level(), max_new_tokens=0)
    assert refused.value.field == "max_new_tokens"
    with pytest.raises(ValueError, match="room"):
        turn(byte_level(), room=0)
