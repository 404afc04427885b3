"""Where a turn ends and what of it is shown: end tokens, stop strings, the limit.

Must not know the network, the ledger or the models.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from outrider_server.core.errors import InvalidRequest
from outrider_server.core.types import Accepted, FinishReason

from .stops import StopStrings
from .text import IncrementalText
from .tokenizer import Tokenizer


class TurnText:
    """Where a turn ends and what of it is shown, before it is committed: the loop's `TurnEnd`.

    A turn ends with an end token, with the token that completes a stop string, or at its limit;
    where several meet in one token, in this order. That token is kept. A stop string and what
    follows it are never shown; an end token has no text; whatever else was held back is shown with
    the last token. A special token is never shown, and counts as its text where a stop string holds
    that. The answer does not depend on how the tokens are grouped into calls.
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
        self._tokenizer = tokenizer
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
        shown, is_stopped = self._stops.feed(piece, self._tokenizer.special_text(token))
        if is_last and not is_stopped:
            shown += self._stops.flush()
        if is_end:
            return shown, FinishReason.END_TOKEN
        if is_stopped:
            return shown, FinishReason.STOP_STRING
        return shown, FinishReason.LENGTH if is_last else None
