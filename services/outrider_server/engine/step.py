"""The step: every forward pass of the model runs here, and every draw.

Owns the token history, the draws and the input buffers. The number of tokens in a step has a few upper
bounds, the *buckets*, counted in rows of `width` tokens; how rows lie in a step is told in `layout.py`, and
how its forward pass is computed in `forward.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..core.types import TokenLogprobs
from .attention.attention_kernels import KEY_BLOCK
from .attention.attention_names import AUTO, AttentionChoice
from .drawing.adjusting import adjust
from .drawing.logprobs import token_logprobs
from .drawing.noise import gumbel_noise
from .drawing.sampling import DrawTable, Features, draw_tokens
from .drawing.spreading import Spreading
from .forward import Forward
from .kept_model import KeptModel
from .kernels.library import kernel_library
from .layout import INPUT_KINDS, NOT_FINITE, Layout, Row, RowResult, packed_buckets
from .limits import StepLimits
from .model.facts import ModelFacts
from .parking import Layers, read_slot, write_slot
from .ranks.ranks import Group, Operation
from .recorded_forward import RecordedForward
from .starting import Start


class StepRunner:
    """Runs steps of a model, or of a rank's share of one. Not thread-safe: one thread owns it.

    Rank 0 of a `group` has the others run its forward passes too, and draws alone.
    """

    def __init__(
        self,
        loaded: ModelFacts,
        limits: StepLimits,
        compile_mode: str,
        attention: str = AUTO,
        group: Group | None = None,
        start: Start | None = None,
    ) -> None:
        self.vocabulary_size = loaded.vocabulary_size
        self.known_token = loaded.vocabulary.known_token
        self.parameter_count = loaded.parameter_count
        self.dtype = loaded.dtype
        self.device = loaded.device
        self.length_rule = loaded.length_rule
        headroom = max(limits.width, limits.prefill_width)
        length = -(-(limits.max_context_tokens + headroom) // KEY_BLOCK) * KEY_BLOCK
        self.history = torch.zeros(
            (limits.slots + 1, length), dtype=torch.int64, device=self.device
        )
        forward = _forward(loaded, limits, compile_mode, attention, self.history, start or Start())
        if forward.packed:
            limits = replace(limits, row_buckets=packed_buckets(limits.row_buckets[-1]))
        self.limits = limits
        self.layout = Layout(limits.width, forward.packed, scratch_slot=limits.slots)
        self.forward = forward
        self.draws = DrawTable(limits.slots + 1, self.device)
        known = loaded.known_tokens
        most = limits.row_buckets[-1] * limits.width
        self._spreading = None if known is None else Spreading(known, most, self.device)
        self._inputs: dict[int, torch.Tensor] = {}
        self._sample = self._draw_packed if forward.packed else forward.compile(self._draw_sampled)
        self._noise = forward.compile(self._gumbel)
        self._decide: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = forward.decide
        self._read: Callable[[torch.Tensor], object] = forward.read
        self._wipe: Callable[[torch.Tensor], object] = lambda slot: forward.cache.wipe(int(slot))
        if group is not None:
            self._decide = group.mirrored(Operation.DECIDE, self._decide)
            self._read = group.mirrored(Operation.READ, self._read)
            self._wipe = group.mirrored(Operation.WIPE, self._wipe)

    @property
    def attention(self) -> AttentionChoice:
        """The attention kernel that runs."""
        return self.forward.attention

    @property
    def kernel_note(self) -> str:
        """Why the engine's own kernels do not run, in one sentence; empty where they do."""
        return self.forward.kernel_note

    @property
    def compiled(self) -> bool:
        """True when steps run recorded or compiled."""
        return not self.compile_note

    @property
    def compile_note(self) -> str:
        """Why steps run eagerly, in one sentence; empty where they do not."""
        return self.forward.compile_note

    @torch.no_grad()
    def logits(self, rows: Sequence[Row], bucket: int) -> list[torch.Tensor]:
        """Reads the rows in a bucket; returns each row's float32 logits [len(row.tokens), R], of the rows
        that are drawn from."""
        logits, _ = self._decide(self._fill(rows, bucket * self.limits.width))
        return self._of_rows(logits, rows)

    def excerpt(self) -> Callable[[Sequence[Row], int], list[torch.Tensor]]:
        """Like `logits`, of recorded steps: all numbers that their first layers, which stand for all, compute
        of each row's tokens, float32 [len(row.tokens), ...]."""
        assert isinstance(self.forward, RecordedForward), "the library's model has no excerpt"
        compute = self.forward.excerpt()

        def step(rows: Sequence[Row], bucket: int) -> list[torch.Tensor]:
            return self._of_rows(compute(self._fill(rows, bucket * self.limits.width)), rows)

        return step

    @torch.no_grad()
    def prefill(self, row: Row) -> None:
        """Reads a row of at most `prefill_width` tokens into the cache, deciding nothing."""
        width = self.limits.prefill_width
        self._read(self._fill([row], width, width))

    @torch.no_grad()
    def decide(self, rows: Sequence[Row], bucket: int) -> list[RowResult]:
        """Reads the rows and decides a token after each of their tokens, by each slot's draw."""
        inputs = self._fill(rows, bucket * self.limits.width)
        logits, best = self._decide(inputs)
        features = self._features(rows)
        if self._spreading is not None:
            best = self._spreading.targets_of(best)
            logits = self._spreading.spread(logits) if features.logits else logits
        drawn = self._draw(inputs, logits, best, features).tolist()
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
            Operation.DECIDE: self._decide,
            Operation.READ: self._read,
            Operation.WIPE: self._wipe,
        }
        runs[Operation(operation)](inputs)

    def read_slot(self, slot: int, length: int) -> Layers:
        """Copies what a slot holds of its first `length` tokens to the host."""
        return read_slot(self.forward.cache, slot, length)

    def write_slot(self, slot: int, tokens: Sequence[int], layers: Layers) -> None:
        """Puts tokens and their keys and values into a slot, from position 0 on."""
        write_slot(self.forward.cache, slot, layers)
        self.history[slot, : len(tokens)] = torch.tensor(tokens, device=self.device)

    def _features(self, rows: Sequence[Row]) -> Features:
        """What the draws of a step need."""
        features = self.draws.features([row.slot for row in rows])
        features.withheld = any(self.draws.withholds(row.slot, row.start_position) for row in rows)
        return features

    def _draw(
        self, inputs: torch.Tensor, logits: torch.Tensor, best: torch.Tensor, features: Features
    ) -> torch.Tensor:
        """The token after each of the step's tokens: [N] int64, NOT_FINITE where there is none."""
        _, slots, positions, _ = inputs
        if features.scores:
            logits = adjust(logits, self.history, slots, positions, self.draws, features)
            likeliest = self.forward.most_probable(logits, hidden=True)
            best = torch.where(best == NOT_FINITE, NOT_FINITE, likeliest)
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
        return kernel_library().draw_sampled(
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

    def _gumbel(self, seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return gumbel_noise(seeds, positions, self.vocabulary_size)

    def _logprobs(
        self, logits: torch.Tensor, drawn: list[int], row: Row
    ) -> tuple[TokenLogprobs, ...]:
        """Log-probabilities of the drawn tokens, where the slot's turn wants them. logits [W, V]."""
        wanted = self.draws.logprobs(row.slot)
        return () if wanted is None else token_logprobs(logits[: len(row.tokens)], drawn, wanted)

    def _of_rows(self, of_tokens: torch.Tensor, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Each row's part of what a step has of its tokens."""
        begins = self.layout.begins(rows)
        return [
            of_tokens[begin : begin + len(row.tokens)]
            for begin, row in zip(begins, rows, strict=True)
        ]

    def _fill(self, rows: Sequence[Row], tokens: int, row_width: int = 0) -> torch.Tensor:
        """Writes the rows into a static input [INPUT_KINDS, N]: N is `tokens`, unless rows are packed."""
        filled = torch.tensor(self.layout.fill(rows, tokens, row_width))
        most = self.limits.row_buckets[-1] * self.limits.width if self.layout.packed else tokens
        size = max(most, filled.shape[1])
        inputs = self._inputs.get(size)
        if inputs is None:
            inputs = torch.zeros((INPUT_KINDS, size), dtype=torch.int64, device=self.device)
            self._inputs[size] = inputs
        inputs = inputs[:, : filled.shape[1]]
        return inputs.copy_(filled)


def _forward(
    loaded: ModelFacts,
    limits: StepLimits,
    compile_mode: str,
    attention: str,
    history: torch.Tensor,
    start: Start,
) -> Forward:
    """The forward pass of a model; see `choose_forward`."""
    if isinstance(loaded, KeptModel):
        return RecordedForward(loaded.recorded, loaded, limits, history)
    from .forward_choice import choose_forward  # imports the library, which takes seconds
    from .model.loading import LoadedModel

    assert isinstance(loaded, LoadedModel), "a model is kept or the library's"
    return choose_forward(loaded, limits, compile_mode, attention, history, start)
