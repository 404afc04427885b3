"""The fixed-shape step: every forward pass of the model runs here, over static buffers.

Owns the model, the slot cache, the token history and the input buffers. One shape of step is a *bucket*:
`rows` sequences by `width` tokens. Short rows are padded with tokens that nothing attends to, missing rows
live in a scratch slot, so a shape is all that the arithmetic ever sees.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..speculation.types import TokenLogprobs
from .attention import KEY_BLOCK, make_places
from .cache import SlotCache
from .loading import LoadedModel
from .noise import gumbel_noise
from .sampling import DrawTable, draw_tokens, penalize

MIN_PARAMETERS_TO_COMPILE = 500_000
"""Below this a step is all overhead of the framework and too short to be worth a compiler's time."""

NOT_FINITE = -1
"""Stands for a decided token where the logits were no numbers."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The static shapes of an engine."""

    slots: int
    max_context_tokens: int
    width: int
    prefill_width: int
    row_buckets: tuple[int, ...]
    """Ascending; the last is the most rows in one step."""


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens to read at `start_position` of a slot."""

    slot: int
    start_position: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowResult:
    """What was decided after each token of a row; NOT_FINITE where the model gave no number."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class _Buffers:
    token_ids: torch.Tensor
    places: torch.Tensor


class StepRunner:
    """Runs steps of a model. Not thread-safe: one thread owns it."""

    def __init__(self, loaded: LoadedModel, limits: StepLimits, compile_mode: str) -> None:
        self.limits = limits
        self.vocabulary_size = loaded.vocabulary_size
        self.model = loaded.model
        self.device = loaded.model.device
        headroom = max(limits.width, limits.prefill_width)
        length = -(-(limits.max_context_tokens + headroom) // KEY_BLOCK) * KEY_BLOCK
        self._scratch = limits.slots
        self.cache = SlotCache(
            loaded.model.config, limits.slots + 1, length, loaded.model.dtype, self.device
        )
        self.history = torch.zeros(
            (limits.slots + 1, length), dtype=torch.int64, device=self.device
        )
        self.draws = DrawTable(limits.slots + 1, self.device)
        self._buffers: dict[tuple[int, int], _Buffers] = {}
        self.compile_note = _reason_not_to_compile(loaded, compile_mode)
        self._forward: Callable[..., torch.Tensor] = self._decide_eagerly
        self._prefill: Callable[..., torch.Tensor] = self._read_eagerly
        self._noise = gumbel_noise
        if not self.compile_note:
            self._compile()

    @property
    def compiled(self) -> bool:
        """True when steps run compiled."""
        return not self.compile_note

    @torch.no_grad()
    def logits(self, rows: Sequence[Row], bucket: int) -> torch.Tensor:
        """Reads the rows in the shape [bucket, width] and returns float32 logits [bucket, width, V]."""
        buffers = self._fill(rows, bucket, self.limits.width)
        return self._guarded(lambda: self._forward(buffers.token_ids, buffers.places)).float()

    @torch.no_grad()
    def prefill(self, row: Row) -> None:
        """Reads a row of at most `prefill_width` tokens into the cache, deciding nothing."""
        buffers = self._fill([row], 1, self.limits.prefill_width)
        self._guarded(lambda: self._prefill(buffers.token_ids, buffers.places))

    @torch.no_grad()
    def decide(self, rows: Sequence[Row], bucket: int) -> list[RowResult]:
        """Reads the rows and decides a token after each of their tokens, by each slot's draw."""
        logits = self.logits(rows, bucket)
        places = self._buffers[bucket, self.limits.width].places
        slots, positions = places[:, 0, 0, 0], places[:, 0, :, 1]
        slot_list = [row.slot for row in rows]
        features = self.draws.features(slot_list)
        scores = logits
        if features.bias:
            scores = scores + self.draws.bias(slot_list, bucket, self.vocabulary_size)[:, None, :]
        if features.penalties:
            scores = penalize(scores, self.history, positions, slots, self.draws)
        drawn_tokens = self._guarded(
            lambda: draw_tokens(scores, positions, slots, self.draws, features, self._noise)
        )
        drawn = torch.where(logits.isfinite().all(dim=-1), drawn_tokens, NOT_FINITE).tolist()
        return [
            RowResult(
                tuple(drawn[index][: len(row.tokens)]),
                self._logprobs(logits[index], drawn[index], row),
            )
            for index, row in enumerate(rows)
        ]

    def _logprobs(
        self, logits: torch.Tensor, drawn: list[int], row: Row
    ) -> tuple[TokenLogprobs, ...]:
        """Log-probabilities of the drawn tokens, where the slot's turn wants them. logits [W, V]."""
        wanted = self.draws.logprobs(row.slot)
        if wanted is None:
            return ()
        logprobs = logits[: len(row.tokens)].log_softmax(dim=-1)
        top = logprobs.topk(min(wanted, self.vocabulary_size), dim=-1)
        return tuple(
            TokenLogprobs(
                float(logprobs[index, max(drawn[index], 0)]),
                tuple(zip(top.indices[index].tolist(), top.values[index].tolist(), strict=True)),
            )
            for index in range(len(row.tokens))
        )

    def _fill(self, rows: Sequence[Row], count: int, width: int) -> _Buffers:
        """Writes the rows into the static buffers of the shape [count, width], and into the history."""
        buffers = self._buffers.get((count, width))
        if buffers is None:
            token_ids = torch.zeros((count, width), dtype=torch.int64, device=self.device)
            places = torch.zeros((count, 1, width, 2), dtype=torch.int64, device=self.device)
            buffers = self._buffers[count, width] = _Buffers(token_ids, places)
        missing = count - len(rows)
        padded = [row.tokens + (0,) * (width - len(row.tokens)) for row in rows]
        slots = [row.slot for row in rows] + [self._scratch] * missing
        starts = [row.start_position for row in rows] + [0] * missing
        buffers.token_ids.copy_(torch.tensor(padded + [(0,) * width] * missing))
        positions = torch.tensor(starts)[:, None] + torch.arange(width)
        buffers.places.copy_(make_places(torch.tensor(slots), positions))
        places = buffers.places[:, 0]
        self.history[places[..., 0], places[..., 1]] = buffers.token_ids
        return buffers

    def _guarded(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Runs what may be compiled; the compiler's first failure turns the runner eager for good."""
        try:
            return run()
        except torch._dynamo.exc.TorchDynamoException as error:
            if not self.compiled:
                raise
            self._fall_back(f"the step does not compile ({type(error).__name__})")
            return run()

    def _decide_eagerly(self, token_ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """One forward pass: [R, W] token ids at [R, 1, W, 2] places -> logits [R, W, V]."""
        self.cache.place(places)
        return self.model(
            input_ids=token_ids,
            position_ids=self._position_ids(places),
            attention_mask=places,
            past_key_values=self.cache,
            use_cache=True,
        ).logits

    def _read_eagerly(self, token_ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The same without the vocabulary: keys and values are written, the hidden states [R, W, H] spare."""
        self.cache.place(places)
        return self.model.base_model(
            input_ids=token_ids,
            position_ids=self._position_ids(places),
            attention_mask=places,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state

    def _position_ids(self, places: torch.Tensor) -> torch.Tensor:
        """The model's own positions [R, W]; padding past the end gets the last, as some models look it up."""
        return places[:, 0, :, 1].clamp(max=self.limits.max_context_tokens - 1)

    def _compile(self) -> None:
        self._forward = torch.compile(self._decide_eagerly, fullgraph=True, dynamic=False)
        self._prefill = torch.compile(self._read_eagerly, fullgraph=True, dynamic=False)
        self._noise = torch.compile(gumbel_noise, fullgraph=True, dynamic=False)

    def _fall_back(self, note: str) -> None:
        self.compile_note = note
        self._forward, self._prefill = self._decide_eagerly, self._read_eagerly
        self._noise = gumbel_noise
        print(f"outrider: {note}; steps run eagerly", file=sys.stderr, flush=True)


def _reason_not_to_compile(loaded: LoadedModel, mode: str) -> str:
    """One sentence why steps run eagerly; empty when they are to be compiled."""
    if mode == "off":
        return "compilation is switched off"
    if loaded.model.device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "no C++ compiler was found"
    if mode == "auto" and loaded.model.num_parameters() < MIN_PARAMETERS_TO_COMPILE:
        return "the model is too small to gain from compilation"
    return ""
