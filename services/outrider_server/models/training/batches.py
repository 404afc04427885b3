"""Windows of a token stream, in an order that depends on the seed and the step alone.

Because a batch is a function of its step, a run that stops and goes on from a
checkpoint sees exactly what an unbroken run sees.
"""

from dataclasses import dataclass

import torch

WINDOW_TOKENS = 1024
WINDOWS_PER_BATCH = 8
BATCH_TOKENS = WINDOW_TOKENS * WINDOWS_PER_BATCH

# Gradients are summed over parts of this many tokens: activations then stay in the
# cache of a desktop CPU, which is faster than one large pass.
PART_TOKENS = 2048
PARTS_PER_BATCH = BATCH_TOKENS // PART_TOKENS


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and the tokens that follow them, both `[sequences, length] int64`."""

    inputs: torch.Tensor
    following: torch.Tensor

    def parts(self) -> list["Batch"]:
        """Cut into `PARTS_PER_BATCH` batches of whole sequences."""
        rows = PART_TOKENS // self.inputs.shape[1]
        pairs = zip(torch.split(self.inputs, rows), torch.split(self.following, rows), strict=True)
        return [Batch(inputs, following) for inputs, following in pairs]


class StreamBatches:
    """Batches over one stream, `[tokens]`; each epoch visits every window once.

    Windows begin at a new offset each epoch, unless `is_aligned`: then at multiples of
    `WINDOW_TOKENS`.
    """

    def __init__(self, stream: torch.Tensor, seed: int, *, is_aligned: bool = False) -> None:
        self._stream = stream
        self._seed = seed
        self._largest_shift = 1 if is_aligned else WINDOW_TOKENS
        self._windows = (len(stream) - WINDOW_TOKENS - 1) // WINDOW_TOKENS
        if self._windows < WINDOWS_PER_BATCH:
            raise ValueError(f"a stream of {len(stream)} tokens is too short for one batch")

    @property
    def steps_per_epoch(self) -> int:
        return self._windows // WINDOWS_PER_BATCH

    def at(self, step: int, sequence_tokens: int) -> Batch:
        """Return the batch of `step` (0-based), cut into rows of `sequence_tokens`."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self._seed * 10_007 + epoch)
        shift = int(torch.randint(self._largest_shift, (), generator=generator))
        order = torch.randperm(self._windows, generator=generator)
        first = step_in_epoch * WINDOWS_PER_BATCH
        starts = order[first : first + WINDOWS_PER_BATCH] * WINDOW_TOKENS + shift
        windows = self._stream[starts[:, None] + torch.arange(WINDOW_TOKENS + 1)].long()
        return Batch(
            inputs=windows[:, :-1].reshape(-1, sequence_tokens),
            following=windows[:, 1:].reshape(-1, sequence_tokens),
        )
