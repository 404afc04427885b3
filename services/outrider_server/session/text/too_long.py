"""Text that no context can hold, found before all of it is encoded.

How many tokens a text has is known when it is encoded, which takes seconds for megabytes. Bytes do not
tell: a tokenizer may make one token of any number of spaces. So a long text is counted piece by piece,
until it is too long whatever the cuts between pieces have added.
"""

from __future__ import annotations

import tokenizers

from .encoding import encode

PIECE = 1 << 15
"""Characters, which are encoded in some hundredths of a second."""
TOKENS_A_CUT = 8
"""A cut may split words that are tokens; a tokenizer goes on as before after a few."""


def is_too_long(text: str, tokenizer: tokenizers.Tokenizer, most_tokens: int) -> bool:
    """True for a text of more tokens, beyond what cutting may have added: a quarter and a few for each
    cut. False says nothing: the text may still have too many."""
    if len(text) <= max(PIECE, most_tokens):
        return False
    allowed = most_tokens + most_tokens // 4
    for start in range(0, len(text), PIECE):
        piece = encode(tokenizer, text[start : start + PIECE])
        allowed += TOKENS_A_CUT - len(piece)
        if allowed < 0:
            return True
    return False
