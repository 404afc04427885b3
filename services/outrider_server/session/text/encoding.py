"""A text to what a tokenizer makes of it, while other threads go on.

The library's `encode` holds the interpreter's lock to its end, some hundredths of a second for a long text,
and with it the event loop of whoever reads off that loop; its `encode_batch` lets go of the lock.
"""

from __future__ import annotations

import tokenizers


def encode(tokenizer: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    """As `tokenizer.encode`, without what a post-processor adds."""
    return tokenizer.encode_batch([text], add_special_tokens=False)[0]
