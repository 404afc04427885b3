"""Position-keyed Gumbel noise: the only randomness in Outrider.

Owns the counter-based generator. The noise of a token at a position depends on (seed, position, token id)
alone, never on the shape, the order or the number of draws, so a draw can be repeated anywhere.

Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW_32 = 0xFFFFFFFF
ROUNDS = 10

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(counter: Words, key: tuple[torch.Tensor, torch.Tensor]) -> Words:
    """Philox4x32-10 of broadcastable int64 tensors that hold unsigned 32-bit words; so does the answer.

    A product of two words wraps to a negative int64; masking after the shift still gives its high word.
    """
    word0, word1, word2, word3 = counter
    key0, key1 = key
    for _ in range(ROUNDS):
        product0 = word0 * MULTIPLIERS[0]
        product1 = word2 * MULTIPLIERS[1]
        word0 = ((product1 >> 32) & LOW_32) ^ word1 ^ key0
        word1 = product1 & LOW_32
        word2 = ((product0 >> 32) & LOW_32) ^ word3 ^ key1
        word3 = product0 & LOW_32
        key0 = (key0 + WEYL_STEPS[0]) & LOW_32
        key1 = (key1 + WEYL_STEPS[1]) & LOW_32
    return word0, word1, word2, word3


def gumbel_noise(
    seeds: torch.Tensor, positions: torch.Tensor, vocabulary_size: int
) -> torch.Tensor:
    """Standard Gumbel noise for every token id.

    seeds [R] int64 (the bits of an unsigned seed), positions [R, W] int64 -> [R, W, vocabulary_size] float64.

    One Philox block of four words serves two tokens: counter (token // 2, position, 0, 0), key = seed. With
    u = (k + 1/2) / 2^53 from 53 bits, the noise is -log(-log1p(-u)): its upper tail, which decides draws,
    comes from small u, where floating point is finest. u may round to 1 and the noise to -inf, never to
    +inf.
    """
    pairs = (vocabulary_size + 1) // 2
    token_pair = torch.arange(pairs, device=positions.device)
    counter = (
        token_pair.expand(*positions.shape, pairs),
        positions.unsqueeze(-1),
        torch.zeros_like(token_pair),
        torch.zeros_like(token_pair),
    )
    key = ((seeds & LOW_32)[:, None, None], ((seeds >> 32) & LOW_32)[:, None, None])
    word0, word1, word2, word3 = philox(counter, key)
    even = (word0 << 21) | (word1 >> 11)
    odd = (word2 << 21) | (word3 >> 11)
    bits = torch.stack((even, odd), dim=-1).flatten(-2)[..., :vocabulary_size]
    uniform = (bits.to(torch.float64) + 0.5) * 2.0**-53
    return -torch.log(-torch.log1p(-uniform))


def seed_bits(seed: int) -> int:
    """An unsigned 64-bit seed as the signed integer of the same bits, as int64 tensors hold it."""
    return seed - 2**64 if seed >= 2**63 else seed
