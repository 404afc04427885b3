"""Text in, tokens out, and back: the target's tokenizer.

Owns what a token id means to a reader. Must not know the network, the ledger or the models; the
tokenizer's file is an argument.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import tokenizers

from outrider_server.core.errors import InvalidRequest

from .encoding import encode
from .ordinary import Boundary, OrdinaryText
from .too_long import is_too_long

MOST_TOKENS = 1 << 30
LIKELY_CHARACTERS = 8
"""What has more characters for each token of the context is likely too long, in any language."""


@dataclass(frozen=True, slots=True)
class RenderedText:
    """What a chat template wrote, with the spans of others in it, in order and apart.

    Users wrote what is in `quoted`: the text of a control token there is ordinary text. Assistants wrote
    what is in `spoken`: that of a special token is ordinary text, since a reply never shows one, and
    any other is the token that the assistant wrote.
    """

    text: str
    quoted: tuple[tuple[int, int], ...] = ()
    spoken: tuple[tuple[int, int], ...] = ()


class Tokenizer:
    """The target's tokenizer.

    *Control tokens* are the special tokens, and the other added tokens that the chat template
    writes. Their text in what a user wrote becomes ordinary tokens that spell it, unless the user
    asks for the tokens. The template can write them.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        begin_token: str = "",
        end_token: str = "",
        chat_template: str = "",
        most_tokens: int = MOST_TOKENS,
    ) -> None:
        """Raises ValueError when the file has no meaning or lacks the begin or end token. Text that has
        many more than `most_tokens` is not encoded to its end."""
        self._most_tokens = most_tokens
        try:
            self._raw = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError("the tokenizer file cannot be read") from error
        self._raw.no_truncation()
        self._raw.no_padding()
        self.begin_token_id = self._id_of(begin_token)
        self.end_token_id = self._id_of(end_token)
        added = self._raw.get_added_tokens_decoder()
        self._special = {token: what.content for token, what in added.items() if what.special}
        self._control = {
            token: what.content
            for token, what in added.items()
            if what.special or (what.content.strip() and what.content in chat_template)
        }
        self._begins_with = self._tokens_in_front([what.content for what in added.values()])
        self._bytes = self._byte_tokens()
        self._ordinary = OrdinaryText(self._raw, self._control)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self._raw.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, begin: bool, parse_control_tokens: bool = False) -> list[int]:
        """Encodes what a user wrote.

        Where it begins a session, it begins as the tokenizer's own post-processor begins a text, and
        else nothing is put in front of it, no space either. What a post-processor puts behind a text
        is left out: the turn goes on there. Empty where the text has no tokens of its own. Raises
        InvalidRequest for text that is far too long.
        """
        self._check_length(text)
        front = self._begins_with if begin else []
        if parse_control_tokens:
            tokens = self._encode(RenderedText(text), begin=begin)
            front = [] if tokens[: len(front)] == front else front  # the user wrote it
        else:
            tokens = self._ordinary.encode(text, Boundary.FIRST if begin else Boundary.LATER)
        return [*front, *tokens] if tokens else []

    def encode_rendered(self, rendered: RenderedText, *, begin: bool) -> list[int]:
        """Encodes what a template wrote. A begin token in front stays only where it begins a session.
        Raises InvalidRequest for text that is far too long."""
        self._check_length(rendered.text)
        tokens = self._encode(rendered, begin=begin)
        begins = {self.begin_token_id, *self._begins_with[:1]}
        return tokens[1:] if not begin and tokens and tokens[0] in begins else tokens

    def check_message(self, text: str) -> None:
        """Raises InvalidRequest for what is far too long, whatever a template puts around it. One that may
        still fit is not encoded: it will be, with all the others."""
        if len(text) > LIKELY_CHARACTERS * self._most_tokens:
            self._check_length(text)

    def decode(self, tokens: Sequence[int], *, special: bool) -> str:
        """The text of all tokens at once, with or without that of special tokens."""
        return self._raw.decode(tokens, skip_special_tokens=not special)

    def is_silent(self, token: int) -> bool:
        """True for a token that never has text: a special one, or an id without a meaning."""
        return token in self._special or self._raw.id_to_token(token) is None

    def special_text(self, token: int) -> str:
        """The text of a special token, which is not shown; empty for any other."""
        return self._special.get(token, "")

    def byte_of(self, token: int) -> int | None:
        """The byte that the token stands for, where the tokenizer falls back to bytes."""
        return self._bytes.get(token)

    def _check_length(self, text: str) -> None:
        if is_too_long(text, self._raw, self._most_tokens):
            raise InvalidRequest(
                "input",
                f"the input has more tokens than the context of {self._most_tokens} holds; send less",
            )

    def _id_of(self, token: str) -> int | None:
        if not token:
            return None
        identifier = self._raw.token_to_id(token)
        if identifier is None:
            raise ValueError(f"the tokenizer lacks its token {token!r}")
        return identifier

    def _tokens_in_front(self, added: Sequence[str]) -> list[int]:
        """What the post-processor puts before a text, tried on one that has tokens."""
        for text in ("a", *added):
            if encode(self._raw, text).ids:
                encoding = self._raw.encode(text, add_special_tokens=True)
                marked = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
                return [token for token, _ in itertools.takewhile(lambda pair: pair[1], marked)]
        return []

    def _byte_tokens(self) -> dict[int, int]:
        """Token id to byte, where the decoder falls back to bytes."""
        if self._raw.decoder is None:
            return {}
        decoder = json.loads(self._raw.decoder.__getstate__())
        if not any(d["type"] == "ByteFallback" for d in decoder.get("decoders", [decoder])):
            return {}
        found = ((self._raw.token_to_id(f"<0x{byte:02X}>"), byte) for byte in range(256))
        return {token: byte for token, byte in found if token is not None}

    def _encode(self, rendered: RenderedText, *, begin: bool) -> list[int]:
        """Encodes stretch by stretch between the control tokens that are no text of a message."""
        text = rendered.text
        encoding = encode(self._raw, text)
        tokens: list[int] = []
        stretch: list[int] = []
        boundary, at = Boundary.FIRST if begin else Boundary.LATER, 0
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            written = self._control.get(token, "")
            found = text.find(written, start, end) if written else -1
            if found >= 0 and not self._is_said(token, rendered, found, found + len(written)):
                tokens += [*self._stretch(text[at:start], stretch, boundary), token]
                stretch, boundary, at = [], Boundary.INNER, end
            else:
                stretch.append(token)
        return tokens + self._stretch(text[at:], stretch, boundary)

    def _is_said(self, token: int, rendered: RenderedText, start: int, end: int) -> bool:
        """Whether the control token's text there is ordinary text of a message."""
        if token in self._special and _touches(rendered.spoken, start, end):
            return True
        return _touches(rendered.quoted, start, end)

    def _stretch(self, text: str, tokens: list[int], boundary: Boundary) -> list[int]:
        """A stretch without control tokens; `tokens` is what the tokenizer made of it in its text."""
        if boundary is not Boundary.LATER and self._control.keys().isdisjoint(tokens):
            return tokens
        return self._ordinary.encode(text, boundary)


def _touches(spans: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """Whether a stretch of text shares a character with one of the spans."""
    at = bisect_right(spans, start, key=itemgetter(1))
    return at < len(spans) and spans[at][0] < end
