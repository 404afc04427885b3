"""The tokens are distributed as the model says, jointly over several positions; broken samplers are not.

Pearson's chi-square over whole sequences, each sequence one draw of its own seed. Cells expected fewer than
five times are pooled into one. A sound sampler gives a uniform p-value, so the bound of 1e-6 fails once in a
million choices of seeds; the seeds here are fixed. Every planted fault must fall below the same bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from models_for_tests import tiny_engine, tiny_limits, tiny_llama
from outrider_server.core.types import Draw, SamplingParams, Step
from outrider_server.engine.drawing.noise import gumbel_noise
from outrider_server.engine.drawing.sampling import DrawTable, Features, Noise, draw_tokens
from outrider_server.engine.verifying import VerifyJob
from scipy import stats

BOUND = 1e-6
SIZE = 8
PROMPT = (3,)
MODEL = tiny_llama(seed=3, vocabulary_size=SIZE)
with torch.no_grad():
    MODEL.lm_head.weight.mul_(0.6)  # no token is all but certain, so that every cell is tested
EVERY_PAIR = torch.tensor(list(itertools.product(range(SIZE), repeat=2)))


def noise_of(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return gumbel_noise(seeds, positions, SIZE)


def model_logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits after the prompt [V], after one more token [V, V], and after two more [V, V, V]."""
    prompts = torch.tensor(PROMPT).expand(SIZE * SIZE, -1)
    with torch.no_grad():
        logits = MODEL(torch.cat((prompts, EVERY_PAIR), dim=1)).logits[:, len(PROMPT) - 1 :]
    return logits[0, 0], logits[::SIZE, 1], logits[:, 2].view(SIZE, SIZE, SIZE)


LOGITS = model_logits()


def joint_probabilities(length: int, temperature: float = 1.0) -> torch.Tensor:
    """The model's own probability of every sequence, flat, by the chain rule."""
    first, second, third = ((logits.double() / temperature).softmax(-1) for logits in LOGITS)
    joint = first[:, None] * second
    return (joint if length == 2 else joint[..., None] * third).flatten()


def p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * counts.sum()
    rare = expected < 5
    pooled_counts = torch.cat((counts[~rare], counts[rare].sum()[None])).double()
    pooled = torch.cat((expected[~rare], expected[rare].sum()[None]))
    used = pooled > 0
    return float(stats.chisquare(pooled_counts[used], pooled[used]).pvalue)


def sample(
    count: int, length: int, noise: Noise, filters: bool = False, temperature: float = 1.0
) -> torch.Tensor:
    """Draws `count` sequences, a seed each, through the sampling of a step; counts them."""
    table = DrawTable(count, torch.device("cpu"))
    table.temperature.fill_(temperature)
    table.seed.copy_(torch.arange(count) * 2654435761 + 12345)
    slots = torch.arange(count)
    features = Features(noise=True, filters=filters)
    drawn: list[torch.Tensor] = []
    for place in range(length):
        logits = LOGITS[place][tuple(drawn)].expand(count, SIZE)
        positions = torch.full((count, 1), len(PROMPT) - 1 + place)
        tokens = draw_tokens(logits.unsqueeze(1), positions, slots, table, features, noise)
        drawn.append(tokens[:, 0])
    code = torch.zeros(count, dtype=torch.int64)
    for tokens in drawn:
        code = code * SIZE + tokens
    return torch.bincount(code, minlength=SIZE**length)


@pytest.mark.parametrize(
    ("count", "length", "temperature"), [(150_000, 2, 1.0), (150_000, 3, 1.0), (150_000, 3, 0.25)]
)
def test_sequences_are_distributed_as_the_model_says(
    count: int, length: int, temperature: float
) -> None:
    counts = sample(count, length, noise_of, temperature=temperature)
    assert p_value(counts, joint_probabilities(length, temperature)) > BOUND


def test_running_through_the_filters_changes_no_distribution() -> None:
    """A neighbour's filters must not touch a row that has none."""
    plain, filtered = (sample(20_000, 3, noise_of, filters) for filters in (False, True))
    assert torch.equal(plain, filtered)


def noise_of_every_position_alike(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return gumbel_noise(seeds, torch.zeros_like(positions), SIZE)


def noise_of_every_second_position(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return gumbel_noise(seeds, positions // 2, SIZE)


def noise_of_every_token_pair_alike(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return gumbel_noise(seeds, positions, SIZE // 2).repeat_interleave(2, dim=-1)


def coarse_noise(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Uniforms of 8 bits."""
    uniform = torch.exp(-torch.exp(-noise_of(seeds, positions)))
    return -torch.log(-torch.log((torch.floor(uniform * 256) + 0.5) / 256))


def scaled_noise(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return noise_of(seeds, positions) * 1.05


def normal_noise(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Noise of the right mean and variance and the wrong shape."""
    uniform = torch.exp(-torch.exp(-noise_of(seeds, positions)))
    return 0.5772 + 1.2825 * torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))


@pytest.mark.parametrize(
    "broken",
    [
        noise_of_every_position_alike,
        noise_of_every_second_position,
        noise_of_every_token_pair_alike,
        coarse_noise,
        scaled_noise,
        normal_noise,
    ],
)
def test_broken_noise_is_told_apart(broken: Noise) -> None:
    """At a temperature of 0.25 there are rare tokens, which coarse noise cannot reach."""
    counts = sample(150_000, 3, broken, temperature=0.25)
    assert p_value(counts, joint_probabilities(3, 0.25)) < BOUND


def accept_and_resample(count: int, fresh: bool) -> torch.Tensor:
    """One step of the ratio rule with a uniform draft: accept, or draw from the residual.

    `fresh` draws the residual with noise of its own; otherwise with the noise that chose the proposal,
    which is the classic mistake.
    """
    seeds = torch.arange(count) + 77
    target = LOGITS[0].double().softmax(-1)
    draft = torch.full((SIZE,), 1 / SIZE, dtype=torch.float64)
    chooses, accepts, again = gumbel_noise(seeds, torch.arange(3).expand(count, 3), SIZE).unbind(1)
    proposal = (draft.log() + chooses).argmax(-1)
    uniform = torch.exp(-torch.exp(-accepts[:, 0]))
    accepted = uniform < (target / draft)[proposal]
    residual = (target - draft).clamp(min=0).log()
    resampled = (residual + (again if fresh else chooses)).argmax(-1)
    return torch.bincount(torch.where(accepted, proposal, resampled), minlength=SIZE)


def test_resampling_with_noise_that_was_used_is_told_apart() -> None:
    probabilities = LOGITS[0].double().softmax(-1)
    assert p_value(accept_and_resample(150_000, fresh=True), probabilities) > BOUND
    assert p_value(accept_and_resample(150_000, fresh=False), probabilities) < BOUND


def verified_pairs(seeds: range, proposal: Callable[[int], tuple[int, ...]]) -> torch.Tensor:
    """Counts pairs of tokens decided by real verify steps, many sessions to a step."""
    rows = 64
    limits = tiny_limits(slots=rows, max_context_tokens=16, row_buckets=(rows,))
    engine = tiny_engine(MODEL_IN_ENGINE, limits)
    counts = torch.zeros(SIZE * SIZE, dtype=torch.int64)
    for start in range(seeds.start, seeds.stop, rows):
        tokens = {seed: list(PROMPT) for seed in range(start, start + rows)}
        opened = {}
        for seed in tokens:
            draw = Draw(SamplingParams(), seed * 2654435761 % 2**64, len(PROMPT))
            opened[seed] = engine.open(f"row {seed % rows}", 1, 0, draw)
        while waiting := [seed for seed in tokens if len(tokens[seed]) < len(PROMPT) + 2]:
            jobs = []
            for seed in waiting:
                step = Step(len(tokens[seed]) - 1, tuple(tokens[seed][-1:]), proposal(seed))
                jobs.append(VerifyJob(engine, opened[seed].slot, opened[seed].opening, step))
            works = [job.work() for job in jobs]
            rows_of = [
                (job.slot, work.start_position, work.tokens)
                for job, work in zip(jobs, works, strict=True)
            ]
            results = engine.decide(rows_of).rows
            for seed, job, work, result in zip(waiting, jobs, works, results, strict=True):
                job.take(work, result, rows, 0.0)
                tokens[seed] += job.outcome.result(0).verdict.tokens
        for generated in tokens.values():
            first, second = generated[len(PROMPT) : len(PROMPT) + 2]
            counts[first * SIZE + second] += 1
    return counts


MODEL_IN_ENGINE = tiny_llama(seed=3, vocabulary_size=SIZE)
MODEL_IN_ENGINE.load_state_dict(MODEL.state_dict())
SEEDS = range(0, 2048)


def test_real_verdicts_are_distributed_as_the_model_says_under_an_adversarial_draft() -> None:
    """2,048 sessions whose proposals depend on the seed, and favour what the model finds unlikely.

    Fewer than above, since each is a real step: a fault of about a tenth of a cell still shows.
    """
    unlikely = LOGITS[0].argsort()[:4].tolist()
    adversarial = verified_pairs(SEEDS, lambda seed: (unlikely[seed % 4], seed % SIZE))
    assert p_value(adversarial, joint_probabilities(2)) > BOUND
    assert torch.equal(adversarial, verified_pairs(SEEDS, lambda _: ())), "the very same tokens"
