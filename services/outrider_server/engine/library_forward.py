"""The library's model over the slot cache, in steps of a few fixed shapes: compiled where that pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .attention.attention import make_places, set_kernel
from .attention.attention_choice import choose_attention
from .cache import SlotCache
from .cache_argument import cache_argument
from .compiling import GuardedCompiler
from .layout import INPUT_KINDS, NOT_FINITE
from .limits import StepLimits
from .model.loading import LoadedModel
from .model.quantizing import settle_layers
from .model.rotary import LengthRotary
from .starting import Start


class LibraryForward:
    """See `forward.Forward`. `kernel_note` says why it is this one that runs."""

    packed = False

    def __init__(
        self,
        loaded: LoadedModel,
        limits: StepLimits,
        compile_mode: str,
        attention: str,
        rotaries: Sequence[LengthRotary],
        history: torch.Tensor,
        start: Start,
        kernel_note: str,
    ) -> None:
        self.kernel_note = kernel_note
        self._model = loaded.model
        self._limits = limits
        self._drawn_rows = loaded.drawn_rows
        known = loaded.known_tokens
        self._own_ids = None if known is None else known.own_ids().to(loaded.device)
        self._rotaries = rotaries
        self._history = history
        self._cache_argument = cache_argument(self._model)
        settle_layers(self._model)
        self.cache = SlotCache(
            self._model.config,
            limits.slots + 1,
            history.shape[1],
            self._model.dtype,
            self._model.device,
            loaded.ranks,
        )
        self.attention = choose_attention(
            attention,
            self._model,
            self.cache,
            limits.row_buckets[-1],
            limits.width,
            start,
            alike=loaded.ranks > 1,
        )
        set_kernel(self._model, self.attention.kernel)
        self._compiler = GuardedCompiler(loaded, compile_mode)
        self.decide: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
        self.decide = self.compile(self._decide)
        self.read: Callable[[torch.Tensor], torch.Tensor] = self.compile(self._read)

    @property
    def compile_note(self) -> str:
        """See `Forward`."""
        return self._compiler.note

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """See `Forward`."""
        return self._compiler.compile(function)

    def most_probable(self, logits: torch.Tensor, hidden: bool) -> torch.Tensor:
        """See `Forward`."""
        # NaN is the largest and the smallest of its row. Asking every logit takes ten times as long.
        finite = logits.amax(dim=-1).isfinite()
        if not hidden:
            finite &= logits.amin(dim=-1).isfinite()
        return torch.where(finite, logits.argmax(dim=-1), NOT_FINITE)

    def _decide(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self._model(**self._arguments(inputs.view(INPUT_KINDS, -1, self._limits.width)))
        logits = output.logits[..., : self._drawn_rows].float().flatten(0, 1)
        return logits, self.most_probable(logits, hidden=False)

    def _read(self, inputs: torch.Tensor) -> torch.Tensor:
        """The hidden states are spare."""
        output = self._model.base_model(**self._arguments(inputs.view(INPUT_KINDS, 1, -1)))
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _arguments(self, inputs: torch.Tensor) -> dict[str, object]:
        """What the library's model takes of [INPUT_KINDS, R, W].

        Padding past the end gets the last position, as some models look it up.
        """
        token_ids, slots, positions, lengths = inputs.unbind()
        places = make_places(slots, positions)
        self._history[slots, positions] = token_ids
        self.cache.place(places)
        for rotary in self._rotaries:
            rotary.place(lengths)
        return {
            "input_ids": token_ids if self._own_ids is None else self._own_ids[token_ids],
            "position_ids": positions.clamp(max=self._limits.max_context_tokens - 1),
            "attention_mask": places,
            self._cache_argument: self.cache,
            "use_cache": True,
        }
