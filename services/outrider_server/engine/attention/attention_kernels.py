"""The arithmetic of attention: one function a kernel, each over the slot cache.

Owns what a query sees of its slot, and how it is summed. `attention.py` brings these to the library's models,
`attention_choice.py` picks one. All give the same numbers but for rounding:

- `sdpa`: `scaled_dot_product_attention`, whatever torch takes for the device.
- `math` and `efficient`: the same, held to torch's plain or to its memory-efficient kernel.
- `eager`: products and an online softmax over blocks of keys (Milakov, Gimelshein, arXiv 1805.02867).
- `flex`: torch's compiler writes the kernel (`torch.nn.attention.flex_attention`).
- `flash`: FlashAttention-2 (Dao, arXiv 2307.08691) of the flash-attn package, which reads the slots in place.

Query groups are folded into the query axis where a kernel knows none, so grouped keys are never repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

KEY_BLOCK = 128
"""Keys are read in multiples of this many."""
FLASH = "flash"
FLEX = "flex"
LOWEST = -1e30
"""Stands for the largest score before any was seen; finite, so that differences are numbers."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a query sees of its keys. All but the scaling are optional.

    - `slopes` [H] float32: attention with linear biases (Press, Smith, Lewis, arXiv 2108.12409); a key
      that is n positions back is n slopes lower.
    - `softcap`: scores are `softcap * tanh(score / softcap)` (Gemma 2, arXiv 2408.00118, section 2).
    - `window`: a query sees itself and the `window - 1` positions before it.
    """

    scaling: float
    slopes: torch.Tensor | None = None
    softcap: float | None = None
    window: int | None = None


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Rules], torch.Tensor]
"""query [R, H, W, D]; keys, values [R, K, L, D]; positions [R, W] int64 -> [R, H, W, D]."""


def attend_in_place(
    kernel: Kernel,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    rules: Rules,
) -> torch.Tensor:
    """One row after the other, each over a view of its slot up to its last position.

    query [R, H, W, D]; keys, values [S, K, L, D]; places [R, 1, W, 2] -> [R, W, H, D]. A row's result
    depends on nothing but its own slot, whatever stands beside it in the step.
    """
    rows, heads, width, _ = query.shape
    out = query.new_empty((rows, width, heads, values.shape[-1]))
    for row, (slot, last_position) in enumerate(places[:, 0, -1].tolist()):
        one = slice(row, row + 1)
        limit = min(-(-(last_position + 1) // KEY_BLOCK) * KEY_BLOCK, keys.shape[2])
        of_slot = (slice(slot, slot + 1), slice(None), slice(limit))
        mixed = kernel(query[one], keys[of_slot], values[of_slot], places[one, 0, :, 1], rules)
        out[row] = mixed[0].transpose(0, 1)
    return out


def attend_gathered(
    kernel: Kernel,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    rules: Rules,
) -> torch.Tensor:
    """All rows at once over a copy of their slots, without asking the device where they end.

    Shapes as in `attend_in_place`.
    """
    slots = places[:, 0, 0, 0]
    gathered = keys.index_select(0, slots), values.index_select(0, slots)
    return kernel(query, *gathered, places[:, 0, :, 1], rules).transpose(1, 2).contiguous()


def attend_flash(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    rules: Rules,
) -> torch.Tensor:
    """All rows at once, each over its own slot of the cache itself. Shapes as in `attend_in_place`.

    The queries of a row stand at successive positions, so the package's causal mask, which ends at a row's
    last position, is theirs. One split of the keys keeps the order of the sums whatever shares the step.
    """
    slots, last_positions = places[:, 0, -1].to(torch.int32).unbind(-1)
    before = -1 if rules.window is None else rules.window - 1
    mixed: torch.Tensor = _flash_attention()(
        query.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        cache_seqlens=last_positions + 1,
        cache_batch_idx=slots.contiguous(),
        softmax_scale=rules.scaling,
        causal=True,
        window_size=(before, -1),
        softcap=rules.softcap or 0.0,
        alibi_slopes=rules.slopes,
        num_splits=1,
    )
    return mixed


def _flash_attention() -> Callable[..., Any]:
    from flash_attn import flash_attn_with_kvcache  # type: ignore[import-not-found, unused-ignore]

    function: Callable[..., Any] = flash_attn_with_kvcache
    return function


def _visible(positions: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
    """Which of `length` keys are seen from positions [R, W]: [R, W, L] bool."""
    ahead = torch.arange(length, device=positions.device) - positions[:, :, None]
    visible = ahead <= 0
    return visible if window is None else visible & (ahead > -window)


def _bias(
    positions: torch.Tensor, length: int, heads: int, key_heads: int, rules: Rules
) -> torch.Tensor:
    """What is added to the scores of folded queries: [R, K or 1, G*W, L] float32, -inf where hidden."""
    visible = _visible(positions, length, rules.window)
    if rules.slopes is None:
        return torch.where(visible, 0.0, -torch.inf).repeat(1, heads // key_heads, 1).unsqueeze(1)
    ahead = torch.arange(length, device=positions.device) - positions[:, :, None]
    bias = rules.slopes.view(1, heads, 1, 1) * ahead.unsqueeze(1)
    bias = bias.masked_fill(~visible.unsqueeze(1), -torch.inf)
    return bias.reshape(len(positions), key_heads, -1, length)


def _fold(query: torch.Tensor, key_heads: int) -> torch.Tensor:
    """[R, H, W, D] -> [R, K, G*W, D]: the queries that share a key head follow each other."""
    return query.reshape(query.shape[0], key_heads, -1, query.shape[-1])


def attend_sdpa(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    rules: Rules,
) -> torch.Tensor:
    """Torch's fused attention, which cannot cap scores."""
    heads, (key_heads, length) = query.shape[1], keys.shape[1:3]
    if rules.slopes is None:
        mask = _visible(positions, length, rules.window)
        mask = mask.repeat(1, heads // key_heads, 1).unsqueeze(1)
    else:
        mask = _bias(positions, length, heads, key_heads, rules)
    mixed = functional.scaled_dot_product_attention(
        _fold(query, key_heads), keys, values, attn_mask=mask, scale=rules.scaling
    )
    return mixed.reshape(*query.shape[:-1], -1)


def _held_to(backend: SDPBackend) -> Kernel:
    """`attend_sdpa` on one backend. Torch keeps that choice for the whole process while it runs."""

    def attend(
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        rules: Rules,
    ) -> torch.Tensor:
        with sdpa_kernel(backend):
            return attend_sdpa(query, keys, values, positions, rules)

    return attend


def attend_eager(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    rules: Rules,
) -> torch.Tensor:
    """Products and a softmax, written out: the plain version, which every device has.

    The softmax is taken online over blocks of keys, so that every product has one shape and a block that
    is hidden changes no bit.
    """
    key_heads, length = keys.shape[1:3]
    bias = _bias(positions, length, query.shape[1], key_heads, rules)
    folded = _fold(query, key_heads)
    largest = folded.new_full((*folded.shape[:-1], 1), LOWEST, dtype=torch.float32)
    total = torch.zeros_like(largest)
    summed = total.expand(*folded.shape[:-1], values.shape[-1])
    for start in range(0, length, KEY_BLOCK):
        block = slice(start, start + KEY_BLOCK)
        scores = (folded @ keys[:, :, block].transpose(-1, -2)).float() * rules.scaling
        if rules.softcap is not None:
            scores = (scores / rules.softcap).tanh() * rules.softcap
        scores = scores + bias[..., block]
        before, largest = largest, torch.maximum(largest, scores.amax(-1, keepdim=True))
        weights, shrink = (scores - largest).exp(), (before - largest).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        summed = summed * shrink + (weights.to(values.dtype) @ values[:, :, block]).float()
    return (summed / total).to(query.dtype).reshape(*query.shape[:-1], -1)


def attend_flex(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    rules: Rules,
) -> torch.Tensor:
    """A kernel that torch's compiler writes, once for every number of queries and keys.

    It reads the rules as one tensor: on a CPU the compiler takes no more than that, and no single query.
    """
    heads, length = query.shape[1], keys.shape[2]
    bias = _bias(positions, length, heads, heads, rules)
    bias = bias.reshape(len(positions), -1, query.shape[2], length)
    bias = bias.expand(-1, heads, -1, -1).contiguous()
    for tensor, dims in ((query, 2), (keys, 2), (values, 2), (bias, (2, 3))):
        torch._dynamo.mark_dynamic(tensor, dims)
    compiled = _compiled_flex(rules.scaling, rules.softcap, query.dtype)
    return compiled(query, keys, values, bias, _one_block(query.device))


@cache
def _one_block(device: torch.device) -> BlockMask:
    """All keys in one block that nothing skips.

    Left out, the compiler makes one itself, and fails at it where another compilation stands around it.
    """
    from torch.nn.attention.flex_attention import BlockMask

    return BlockMask.from_kv_blocks(
        torch.ones((1, 1, 1), dtype=torch.int32, device=device),
        torch.zeros((1, 1, 1, 1), dtype=torch.int32, device=device),
        BLOCK_SIZE=1 << 30,
        seq_lengths=(1, 1),
    )


@cache
def _compiled_flex(
    scaling: float, softcap: float | None, dtype: torch.dtype
) -> Callable[..., torch.Tensor]:
    """Takes query, keys, values, and what is added to the scores [R, H, W, L].

    Numbers that changed between two calls would become unknowns, which the compiler's kernels cannot take.
    """

    # Brings the compiler with it, which a start without it does not wait for.
    from torch.nn.attention.flex_attention import flex_attention

    def attend(
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor,
        blocks: BlockMask,
    ) -> torch.Tensor:
        def score(
            value: torch.Tensor,
            row: torch.Tensor,
            head: torch.Tensor,
            column: torch.Tensor,
            key: torch.Tensor,
        ) -> torch.Tensor:
            if softcap is not None:
                value = softcap * torch.tanh(value / softcap)
            return value + bias[row, head, column, key]

        mixed: torch.Tensor = flex_attention(
            query,
            keys,
            values,
            score_mod=score,
            block_mask=blocks,
            scale=scaling,
            enable_gqa=True,
        )
        return mixed

    # The compiler counts recompilations, and remembers which numbers changed, by the place of the code.
    place = f"<flex attention, scaling {scaling}, softcap {softcap}, {dtype}>"
    code = attend.__code__.replace(co_filename=place)
    own = FunctionType(code, attend.__globals__, closure=attend.__closure__)
    return torch.compile(own)


KERNELS: dict[str, Kernel] = {
    "sdpa": attend_sdpa,
    "efficient": _held_to(SDPBackend.EFFICIENT_ATTENTION),
    "math": _held_to(SDPBackend.MATH),
    "eager": attend_eager,
    FLEX: attend_flex,
}
