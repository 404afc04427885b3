"""Which replies share a step of training: a plain function of the seed, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import count

import numpy as np
import numpy.typing as npt
import torch

from .scores import Array, ScoredReplies, learning_temperature

BATCH_TOKENS = 2048
"""Of a step, prompts, replies and padding together."""
WIDTH = 64
"""Steps are a multiple of so many tokens wide, and have all rows that fit. So there are few shapes: libraries
keep what they made for each, and one for every batch would fill the memory."""
SORTED_REPLIES = 128
"""Of so many replies, drawn together, those of like lengths share steps."""
HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 128

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Replies to learn from, and others to judge by, as indices."""

    learnt: Indices
    held_out: Indices


def split_replies(scored: ScoredReplies, seed: int) -> Split:
    """Holds out some prompts with all their replies; at least one where there are two.

    Replies without tokens are in neither.
    """
    lengths = scored.replies["tokens"]
    groups: dict[bytes, list[int]] = {}
    starts = scored.token_starts()
    for index in np.flatnonzero(lengths).tolist():
        start = starts[index]
        prompt = scored.tokens[start : start + int(scored.replies["prompt"][index])]
        groups.setdefault(prompt.tobytes(), []).append(index)
    order = np.random.default_rng([seed, 0]).permutation(len(groups))
    members = list(groups.values())
    wanted = min(MOST_HELD_OUT, int(HELD_OUT_SHARE * sum(map(len, members))) + 1)
    held_out: list[int] = []
    for group in order[: len(groups) - 1]:
        if len(held_out) >= wanted:
            break
        held_out += members[group]
    learnt = np.setdiff1d(np.flatnonzero(lengths), held_out)
    return Split(learnt, np.array(sorted(held_out), np.int64))


def epoch_batches(lengths: Array, learnt: Indices, seed: int, epoch: int) -> list[Indices]:
    """Each reply once, in steps of at most `BATCH_TOKENS`, or of one reply that is longer.

    `lengths` [R] are of prompt and reply together.
    """
    chance = np.random.default_rng([seed, 1, epoch])
    order = chance.permutation(learnt)
    batches: list[Indices] = []
    for first in range(0, len(order), SORTED_REPLIES):
        drawn = order[first : first + SORTED_REPLIES]
        ranked = drawn[np.argsort(lengths[drawn], kind="stable")]
        batches += _cut(ranked, lengths)
    return [batches[index] for index in chance.permutation(len(batches))]


def _cut(ranked: Indices, lengths: Array) -> Iterator[Indices]:
    first = 0
    for end in range(1, len(ranked) + 1):
        longest = 0 if end == len(ranked) else _width(int(lengths[ranked[end]]))
        if end == len(ranked) or (end + 1 - first) * longest > BATCH_TOKENS:
            yield ranked[first:end]
            first = end


def _width(length: int) -> int:
    return -(-length // WIDTH) * WIDTH


def all_batches(lengths: Array, learnt: Indices, seed: int) -> Iterator[Indices]:
    """Epoch after epoch, without end."""
    for epoch in count():
        yield from epoch_batches(lengths, learnt, seed, epoch)


@dataclass(frozen=True, slots=True)
class Batch:
    """Replies that share a step: at most B, of at most L tokens before the last, with N reply tokens."""

    inputs: torch.Tensor
    """[B, L] int64: own ids of the draft, padded at the end, below by whole rows."""
    decides: torch.Tensor
    """[B, L] bool: where a token of a reply is decided after this one."""
    own_ids: torch.Tensor
    """[N, TOP] int64: the target's best tokens in the draft's ids, -1 where it does not know them."""
    logprobs: torch.Tensor
    """[N, TOP] float32 of these."""
    temperatures: torch.Tensor
    """[N] float32 at which they are."""
    is_greedy: torch.Tensor
    """[N] bool: the reply took the most probable token."""
    positions: torch.Tensor
    """[N] int64: where they stand among all positions."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(*(getattr(self, each.name).to(device) for each in fields(self)))


def load_batch(scored: ScoredReplies, chosen: Indices, own: torch.Tensor, unknown: int) -> Batch:
    """Reads a batch.

    `own` [V] has the draft's ids of the target's, -1 for tokens that it does not know; it reads these as
    `unknown`.
    """
    replies = scored.replies[chosen]
    lengths = replies["prompt"].astype(np.int64) + replies["tokens"] - 1
    width = _width(int(lengths.max()))
    shape = max(len(chosen), BATCH_TOKENS // width), width
    inputs, decides = np.zeros(shape, np.int64), np.zeros(shape, bool)
    positions: list[Indices] = []
    token_starts, position_starts = scored.token_starts(), scored.position_starts()
    for row, index in enumerate(chosen):
        start, length = token_starts[index], int(lengths[row])
        inputs[row, :length] = scored.tokens[start : start + length]
        decides[row, int(replies["prompt"][row]) - 1 : length] = True
        first = position_starts[index]
        positions.append(np.arange(first, first + int(replies["tokens"][row])))
    learning = np.array([learning_temperature(each) for each in replies["temperature"].tolist()])
    at = np.concatenate(positions)
    best = scored.positions[at]
    ids = torch.from_numpy(best["ids"].astype(np.int64))
    read = own[torch.from_numpy(inputs)]
    return Batch(
        inputs=read.where(read >= 0, unknown),
        decides=torch.from_numpy(decides),
        own_ids=own[ids.clamp_min(0)].where(ids >= 0, -1),
        logprobs=torch.from_numpy(best["logprobs"].astype(np.float32)),
        temperatures=torch.from_numpy(np.repeat(learning, replies["tokens"])).float(),
        is_greedy=torch.from_numpy(np.repeat(replies["temperature"] == 0, replies["tokens"])),
        positions=torch.from_numpy(at),
    )
