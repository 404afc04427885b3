"""Text in, tokens out, and back: the tokenizer, incremental text, and where a turn ends.

Owns what a token id means to a reader: which text it adds, when that can be shown, and which token
is the turn's last. Must not know the network, the ledger or the models; the tokenizer's file is an
argument.
"""

from __future__ import annotations

import codecs
import functools
import itertools
import json
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import tokenizers

from outrider_server.speculation.errors import InvalidRequest
from outrider_server.speculation.types import Accepted, FinishReason

from .stops import StopStrings

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ANCHOR = "\n"

WINDOW_TOKENS = 8
"""Tokens decoded beside a new one. A character has at most four bytes and a token at least one, so
a character that is still open lies within the last three; the rest is context for decoders that
treat the first token of a text apart."""


@dataclass(frozen=True, slots=True)
class RenderedText:
    """What a chat template wrote. `quoted` are the spans, in order and apart, that hold the text of
    a control token because a message said so; there it is ordinary text."""

    text: str
    quoted: tuple[tuple[int, int], ...] = ()


class Tokenizer:
    """The target's tokenizer.

    *Control tokens* are the special tokens, and the other added tokens that the chat template
    writes. Users cannot write them: their text in user input becomes ordinary tokens that spell it.
    The template can. The library offers one switch for both, so everything is encoded once with
    control tokens recognised, and those found where a user wrote are spelled out afterwards.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        begin_token: str = "",
        end_token: str = "",
        chat_template: str = "",
    ) -> None:
        """Raises ValueError when the file has no meaning or lacks the begin or end token."""
        try:
            self._raw = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError("the tokenizer file cannot be read") from error
        self._raw.no_truncation()
        self._raw.no_padding()
        self.begin_token_id = self._id_of(begin_token)
        self.end_token_id = self._id_of(end_token)
        first = self._raw.encode("a", add_special_tokens=True).ids[:1]
        self._adds_begin_token = first == [self.begin_token_id]
        added = self._raw.get_added_tokens_decoder()
        self._special = frozenset(token for token, what in added.items() if what.special)
        self._control = {
            token: what.content
            for token, what in added.items()
            if what.special or (what.content.strip() and what.content in chat_template)
        }
        self._bytes = self._byte_tokens()
        self._ordinary = functools.lru_cache(maxsize=256)(self._encode_ordinary)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self._raw.get_vocab_size(with_added_tokens=True)

    @property
    def control_texts(self) -> tuple[str, ...]:
        """Texts of the control tokens."""
        return tuple(self._control.values())

    def encode(self, text: str, *, begin: bool) -> list[int]:
        """Encodes what a user wrote; where it begins a session, as the tokenizer begins a text."""
        tokens = self._encode(RenderedText(text, ((0, len(text)),)))
        if begin and self._adds_begin_token and self.begin_token_id is not None:
            return [self.begin_token_id, *tokens]
        return tokens

    def encode_rendered(self, rendered: RenderedText, *, begin: bool) -> list[int]:
        """Encodes what a template wrote. A begin token in front stays only where it begins a session."""
        tokens = self._encode(rendered)
        if not begin and tokens and tokens[0] == self.begin_token_id:
            del tokens[0]
        return tokens

    def decode(self, tokens: Sequence[int], *, special: bool) -> str:
        """The text of all tokens at once, with or without that of special tokens."""
        return self._raw.decode(tokens, skip_special_tokens=not special)

    def is_silent(self, token: int) -> bool:
        """True for a token that never has text: a special one, or an id without a meaning."""
        return token in self._special or self._raw.id_to_token(token) is None

    def byte_of(self, token: int) -> int | None:
        """The byte that the token stands for, where the tokenizer falls back to bytes."""
        return self._bytes.get(token)

    def _id_of(self, token: str) -> int | None:
        if not token:
            return None
        identifier = self._raw.token_to_id(token)
        if identifier is None:
            raise ValueError(f"the tokenizer lacks its token {token!r}")
        return identifier

    def _byte_tokens(self) -> dict[int, int]:
        """Token id to byte, where the decoder falls back to bytes."""
        if self._raw.decoder is None:
            return {}
        decoder = json.loads(self._raw.decoder.__getstate__())
        if not any(d["type"] == "ByteFallback" for d in decoder.get("decoders", [decoder])):
            return {}
        found = ((self._raw.token_to_id(f"<0x{byte:02X}>"), byte) for byte in range(256))
        return {token: byte for token, byte in found if token is not None}

    def _encode(self, rendered: RenderedText) -> list[int]:
        encoding = self._raw.encode(rendered.text, add_special_tokens=False)
        if self._control.keys().isdisjoint(encoding.ids):
            return encoding.ids
        ends = [end for _, end in rendered.quoted]
        tokens: list[int] = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            span = bisect_left(ends, start + 1)
            is_quoted = span < len(ends) and rendered.quoted[span][0] < end
            if is_quoted and token in self._control:
                tokens += self._spell(token, rendered.text[start:end], at_start=start == 0)
            else:
                tokens.append(token)
        return tokens

    def _spell(self, control: int, text: str, *, at_start: bool) -> list[int]:
        """Ordinary tokens for the text of a control token."""
        spelled = self._ordinary(text)
        anchor = self._ordinary(ANCHOR)
        anchored = self._ordinary(ANCHOR + text)
        # Some tokenizers put a space in front of a text's first word; here it is not the first.
        if not at_start and anchored[: len(anchor)] == anchor:
            spelled = anchored[len(anchor) :]
        if self._control[control] in text and not self._control.keys().isdisjoint(spelled):
            # The vocabulary holds this text as a word of its own: go below words.
            letters = (token for letter in text for token in self._ordinary(letter))
            return [token for token in letters if token not in self._control]
        return list(spelled)

    def _encode_ordinary(self, text: str) -> tuple[int, ...]:
        """Encodes with the model alone, which knows no added tokens."""
        normalizer, splitter = self._raw.normalizer, self._raw.pre_tokenizer
        if normalizer is not None:
            text = normalizer.normalize_str(text)
        words = [text] if splitter is None else [w for w, _ in splitter.pre_tokenize_str(text)]
        return tuple(part.id for word in words for part in self._raw.model.tokenize(word))


class IncrementalText:
    """The text of a turn, token by token.

    What is shown never changes: a character is held back while bytes of it may still come, and
    bytes that can no longer become a character are shown as U+FFFD. All pieces and the flush
    together are what decoding the turn's tokens adds to the text of the tokens before it. (Where a
    tokenizer falls back to bytes and these are invalid, decoding all at once drops the valid
    characters beside them; here they have been shown and stay.)

    `tokenizers.decoders.DecodeStream` has the same aim, but holds invalid bytes until something
    valid follows, decodes all of them anew with every token, and cannot be flushed.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window: deque[int] = deque(maxlen=WINDOW_TOKENS)
        self._held = ""
        self._open_bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._starts_inside = False
        spoken = (token for token in reversed(context) if not tokenizer.is_silent(token))
        for token in reversed(list(itertools.islice(spoken, WINDOW_TOKENS))):
            self.push(token)
        self._starts_inside = bool(self._held or self._open_bytes.getstate()[0])

    def push(self, token: int) -> str:
        """Takes the turn's next token and returns the text that can be shown now."""
        if self._tokenizer.is_silent(token):
            return ""
        byte = self._tokenizer.byte_of(token)
        if byte is None:
            piece = self._open_bytes.decode(b"", final=True) + self._added_by(token)
        else:
            piece = self._held + self._open_bytes.decode(bytes([byte]))
            self._held = ""
        self._window.append(token)
        return self._own(piece)

    def flush(self) -> str:
        """Returns what was held back, once no token can follow."""
        piece = self._held + self._open_bytes.decode(b"", final=True)
        self._held = ""
        return self._own(piece)

    def _added_by(self, token: int) -> str:
        window = list(self._window)
        shown = len(self._decode(window)) - len(self._held)
        fresh = self._decode([*window, token])[shown:]
        # Of all that is not valid only the last can still become a character.
        self._held = REPLACEMENT if fresh.endswith(REPLACEMENT) else ""
        return fresh.removesuffix(REPLACEMENT)

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, special=True)

    def _own(self, piece: str) -> str:
        """Leaves out the U+FFFD of a character that the context began and the turn did not end."""
        if self._starts_inside and piece:
            self._starts_inside = False
            return piece.removeprefix(REPLACEMENT)
        return piece


class TurnText:
    """Where a turn ends and what of it is shown, before it is committed: the loop's `TurnEnd`.

    A turn ends with an end token, with the token that completes a stop string, or at its limit;
    where several meet in one token, in this order. That token is kept. A stop string and what
    follows it are never shown; an end token has no text; whatever else was held back is shown with
    the last token. The answer does not depend on how the tokens are grouped into calls.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: Sequence[int],
        *,
        stop: Sequence[str] = (),
        end_tokens: Collection[int] = (),
        max_new_tokens: int,
        room: int,
    ) -> None:
        """`context` are the session's tokens before the turn's first generated one (the last few
        are enough), `room` is the number of tokens that the context can still hold, at least 1."""
        if max_new_tokens < 1:
            raise InvalidRequest("max_new_tokens", "max_new_tokens must be at least 1")
        if room < 1:
            raise ValueError("a turn needs room for a token")
        self._stops = StopStrings(stop)
        self._text = IncrementalText(tokenizer, context)
        self._end_tokens = frozenset(end_tokens)
        self._left = min(max_new_tokens, room)
        self._finish_reason: FinishReason | None = None

    def accept(self, tokens: Sequence[int]) -> Accepted:
        """Takes the tokens decided next and keeps those up to the end of the turn."""
        if self._finish_reason is not None:
            raise ValueError("the turn has ended")
        texts: list[str] = []
        for token in tokens:
            text, self._finish_reason = self._take(token)
            texts.append(text)
            if self._finish_reason is not None:
                break
        return Accepted(len(texts), tuple(texts), self._finish_reason)

    def _take(self, token: int) -> tuple[str, FinishReason | None]:
        self._left -= 1
        is_end = token in self._end_tokens
        is_last = is_end or self._left == 0
        piece = "" if is_end else self._text.push(token)
        if is_last:
            piece += self._text.flush()
        shown, is_stopped = self._stops.feed(piece)
        if is_last and not is_stopped:
            shown += self._stops.flush()
        if is_end:
            return shown, FinishReason.END_TOKEN
        if is_stopped:
            return shown, FinishReason.STOP_STRING
        return shown, FinishReason.LENGTH if is_last else None
