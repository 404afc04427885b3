"""The fixed-shape step: every forward pass of the model runs here, over static buffers.

Owns the model, the slot cache, the token history and the input buffers. The number of tokens in a step is one
of a few *buckets*, counted in rows of `width` tokens; how rows lie in a bucket is told in `layout.py`. Short
steps are padded, so a bucket is all that the arithmetic ever sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..core.types import TokenLogprobs
from .attention.attention import PACKED, make_places, set_kernel
from .attention.attention_choice import AUTO, AttentionChoice, choose_attention
from .attention.attention_kernels import KEY_BLOCK
from .cache import SlotCache
from .cache_argument import cache_argument
from .compiling import GuardedCompiler
from .drawing.adjusting import adjust
from .drawing.logprobs import token_logprobs
from .drawing.noise import gumbel_noise
from .drawing.sampling import DrawTable, Features, draw_tokens
from .kernels import take_threads
from .layout import INPUT_KINDS, Layout, Row, RowResult, packed_buckets
from .lengths import length_rule
from .model.architectures import adapt_model
from .model.loading import LoadedModel
from .model.packing import put_on_kernels
from .model.rotary import rotate_by_length
from .parking import Layers, read_slot, write_slot
from .ranks.ranks import Group, Operation
from .starting import Start

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
    """Ascending: a step has one of these times `width` tokens."""


class StepRunner:
    """Runs steps of a model, or of a rank's share of one. Not thread-safe: one thread owns it.

    Rank 0 of a `group` has the others run its forward passes too, and draws alone.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        limits: StepLimits,
        compile_mode: str,
        attention: str = AUTO,
        group: Group | None = None,
        start: Start | None = None,
    ) -> None:
        start = start or Start()
        self.vocabulary_size = loaded.vocabulary_size
        self.parameter_count = loaded.parameter_count
        self.model = loaded.model
        self.dtype = loaded.model.dtype
        self.device = loaded.model.device
        adapt_model(self.model)
        self._cache_argument = cache_argument(self.model)
        self.length_rule = length_rule(self.model.config)
        self._rotaries = rotate_by_length(self.model, limits.max_context_tokens)
        self.kernel_note = put_on_kernels(self.model, compile_mode, attention, start.tell)
        packed = not self.kernel_note
        self.layout = Layout(limits.width, packed, scratch_slot=limits.slots)
        if packed:
            take_threads()
            limits = replace(limits, row_buckets=packed_buckets(limits.row_buckets[-1]))
        self.limits = limits
        headroom = max(limits.width, limits.prefill_width)
        length = -(-(limits.max_context_tokens + headroom) // KEY_BLOCK) * KEY_BLOCK
        self.cache = SlotCache(
            loaded.model.config, limits.slots + 1, length, self.dtype, self.device, loaded.ranks
        )
        self.attention = AttentionChoice(PACKED, "the engine's own kernels go together")
        if not packed:
            self.attention = choose_attention(
                attention,
                self.model,
                self.cache,
                limits.row_buckets[-1],
                limits.width,
                start,
                alike=loaded.ranks > 1,
            )
            set_kernel(self.model, self.attention.kernel)
        self.history = torch.zeros(
            (limits.slots + 1, length), dtype=torch.int64, device=self.device
        )
        self.draws = DrawTable(limits.slots + 1, self.device)
        self._inputs: dict[int, torch.Tensor] = {}
        self._compiler = GuardedCompiler(loaded, compile_mode, dynamic=packed)
        self._forward = self._compiler.compile(self._decide, 1)
        self._prefill = self._compiler.compile(self._read, 1)
        self._sample = (
            self._draw_packed if packed else self._compiler.compile(self._draw_sampled, 1, 0, 0)
        )
        self._noise = self._compiler.compile(self._gumbel, 0, 0)
        self._wipe: Callable[[torch.Tensor], object] = lambda slot: self.cache.wipe(int(slot))
        if group is not None:
            self._forward = group.mirrored(Operation.DECIDE, self._forward)
            self._prefill = group.mirrored(Operation.READ, self._prefill)
            self._wipe = group.mirrored(Operation.WIPE, self._wipe)

    @property
    def compiled(self) -> bool:
        """True when steps run compiled."""
        return not self.compile_note

    @property
    def compile_note(self) -> str:
        """Why steps run eagerly, in one sentence; empty when they run compiled."""
        return self._compiler.note

    @torch.no_grad()
    def logits(self, rows: Sequence[Row], bucket: int) -> list[torch.Tensor]:
        """Reads the rows in a bucket; returns each row's float32 logits [len(row.tokens), V]."""
        logits, _ = self._forward(self._fill(rows, bucket * self.limits.width))
        begins = self.layout.begins(rows)
        return [
            logits[begin : begin + len(row.tokens)] for begin, row in zip(begins, rows, strict=True)
        ]

    @torch.no_grad()
    def prefill(self, row: Row) -> None:
        """Reads a row of at most `prefill_width` tokens into the cache, deciding nothing."""
        tokens = self.limits.prefill_width
        if self.layout.packed:
            tokens = -(-len(row.tokens) // self.limits.width) * self.limits.width
        self._prefill(self._fill([row], tokens, self.limits.prefill_width))

    @torch.no_grad()
    def decide(self, rows: Sequence[Row], bucket: int) -> list[RowResult]:
        """Reads the rows and decides a token after each of their tokens, by each slot's draw."""
        inputs = self._fill(rows, bucket * self.limits.width)
        logits, best = self._forward(inputs)
        drawn = self._draw(rows, inputs, logits, best).tolist()
        begins = self.layout.begins(rows)
        return [
            RowResult(
                tuple(drawn[begin : begin + len(row.tokens)]),
                self._logprobs(logits[begin:], drawn[begin:], row),
            )
            for begin, row in zip(begins, rows, strict=True)
        ]

    def wipe(self, slot: int) -> None:
        """Zeroes what the slot's cache holds."""
        self._wipe(torch.tensor([slot]))

    @torch.no_grad()
    def repeat(self, operation: int, inputs: torch.Tensor) -> None:
        """Another rank: runs what rank 0 runs, over the same input. The outcome is rank 0's alone."""
        runs = {
            Operation.DECIDE: self._forward,
            Operation.READ: self._prefill,
            Operation.WIPE: self._wipe,
        }
        runs[Operation(operation)](inputs)

    def read_slot(self, slot: int, length: int) -> Layers:
        """Copies what a slot holds of its first `length` tokens to the host."""
        return read_slot(self.cache, slot, length)

    def write_slot(self, slot: int, tokens: Sequence[int], layers: Layers) -> None:
        """Puts tokens and their keys and values into a slot, from position 0 on."""
        write_slot(self.cache, slot, layers)
        self.history[slot, : len(tokens)] = torch.tensor(tokens, device=self.device)

    def _draw(
        self, rows: Sequence[Row], inputs: torch.Tensor, logits: torch.Tensor, best: torch.Tensor
    ) -> torch.Tensor:
        """The token after each of the step's tokens: [N] int64, NOT_FINITE where there is none."""
        features = self.draws.features([row.slot for row in rows])
        features.withheld = any(self.draws.withholds(row.slot, row.start_position) for row in rows)
        _, slots, positions, _ = inputs
        if features.scores:
            logits = adjust(logits, self.history, slots, positions, self.draws, features)
            best = torch.where(best == NOT_FINITE, NOT_FINITE, self._most_probable(logits, True))
        if not features.noise:
            return best
        if self.layout.packed or not (features.filters or features.scores):
            return self._sample(inputs, logits, best)
        drawn = draw_tokens(
            logits[:, None], positions[:, None], slots, self.draws, features, self._noise
        )
        return torch.where(best == NOT_FINITE, NOT_FINITE, drawn[:, 0])

    def _draw_sampled(
        self, inputs: torch.Tensor, logits: torch.Tensor, best: torch.Tensor
    ) -> torch.Tensor:
        """`_draw` where some row is sampled and none is filtered, penalized or biased."""
        drawn = draw_tokens(
            logits[:, None, :],
            inputs[2, :, None],
            inputs[1],
            self.draws,
            Features(noise=True),
            self._gumbel,
        )
        return torch.where(best == NOT_FINITE, NOT_FINITE, drawn[:, 0])

    def _draw_packed(
        self, inputs: torch.Tensor, logits: torch.Tensor, best: torch.Tensor
    ) -> torch.Tensor:
        """`_draw` where some row is sampled, by the engine's own kernel."""
        draws = self.draws
        drawn: torch.Tensor = torch.ops.outrider.draw_sampled.default(
            logits,
            best,
            inputs[1],
            inputs[2],
            draws.temperature,
            draws.top_k,
            draws.top_p,
            draws.floor,
            draws.seed,
        )
        return drawn

    def _gumbel(self, seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return gumbel_noise(seeds, positions, self.vocabulary_size)

    def _logprobs(
        self, logits: torch.Tensor, drawn: list[int], row: Row
    ) -> tuple[TokenLogprobs, ...]:
        """Log-probabilities of the drawn tokens, where the slot's turn wants them. logits [W, V]."""
        wanted = self.draws.logprobs(row.slot)
        return () if wanted is None else token_logprobs(logits[: len(row.tokens)], drawn, wanted)

    def _fill(self, rows: Sequence[Row], tokens: int, row_width: int = 0) -> torch.Tensor:
        """Writes the rows into the static input of this many tokens: [INPUT_KINDS, tokens]."""
        inputs = self._inputs.get(tokens)
        if inputs is None:
            inputs = torch.zeros((INPUT_KINDS, tokens), dtype=torch.int64, device=self.device)
            self._inputs[tokens] = inputs
        inputs.copy_(torch.tensor(self.layout.fill(rows, tokens, row_width)))
        return inputs

    def _decide(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward pass: [INPUT_KINDS, N] -> float32 logits [N, V] and the most probable tokens [N].

        The latter are NOT_FINITE where the logits are no numbers. Ties go to the lowest token id. Logits of
        ids that no token of the vocabulary has are left out of everything.
        """
        width = inputs.shape[1] if self.layout.packed else self.limits.width
        output = self.model(**self._arguments(inputs.view(INPUT_KINDS, -1, width)))
        logits = output.logits[..., : self.vocabulary_size].float().flatten(0, 1)
        return logits, self._most_probable(logits, hidden=False)

    def _most_probable(self, logits: torch.Tensor, hidden: bool) -> torch.Tensor:
        """The first of each row's largest logits: [N, V] -> [N], NOT_FINITE where they are no numbers.

        Some may be `hidden` by -inf.
        """
        if self.layout.packed:
            best: torch.Tensor = torch.ops.outrider.most_probable.default(logits, hidden)
            return best
        # NaN is the largest and the smallest of its row. Asking every logit takes ten times as long.
        finite = logits.amax(dim=-1).isfinite()
        if not hidden:
            finite &= logits.amin(dim=-1).isfinite()
        return torch.where(finite, logits.argmax(dim=-1), NOT_FINITE)

    def _read(self, inputs: torch.Tensor) -> torch.Tensor:
        """One forward pass that decides nothing: keys and values are written; the hidden states are spare."""
        output = self.model.base_model(**self._arguments(inputs.view(INPUT_KINDS, 1, -1)))
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _arguments(self, inputs: torch.Tensor) -> dict[str, object]:
        """What the library's model takes of [INPUT_KINDS, R, W].

        Padding past the end gets the last position, as some models look it up.
        """
        token_ids, slots, positions, lengths = inputs.unbind()
        places = make_places(slots, positions)
        self.history[slots, positions] = token_ids
        self.cache.place(places)
        for rotary in self._rotaries:
            rotary.place(lengths)
        return {
            "input_ids": token_ids,
            "position_ids": positions.clamp(max=self.limits.max_context_tokens - 1),
            "attention_mask": places,
            self._cache_argument: self.cache,
            "use_cache": True,
        }
