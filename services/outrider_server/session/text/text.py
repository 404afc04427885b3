"""The text of a turn, token by token: which text a token adds, and when that can be shown.

Must not know the network, the ledger or the models.
"""

from __future__ import annotations

import codecs
import itertools
from collections import deque
from collections.abc import Sequence

from .tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

WINDOW_TOKENS = 8
"""Tokens decoded beside a new one. A character has at most four bytes and a token at least one, so
a character that is still open lies within the last three; the rest is context for decoders that
treat the first token of a text apart."""


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
        self._begun = ""
        """What the context would end with, were the turn to add nothing to its last character."""
        spoken = (token for token in reversed(context) if not tokenizer.is_silent(token))
        for token in reversed(list(itertools.islice(spoken, WINDOW_TOKENS))):
            self.push(token)
        self._begun = self._held + self._open_bytes.getstate()[0].decode(errors="replace")

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
        if self._begun and piece:
            piece, self._begun = piece.removeprefix(self._begun), ""
        return piece
