"""The promise: the tokens are the target's, bit for bit, whoever drafts and however the loop runs.

The reference of every sequence is the target alone: no draft, window 0, the plain loop, nothing beside it.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import pytest
from outrider_server.core.types import (
    Accepted,
    Draw,
    FinishReason,
    Round,
    SamplingParams,
    TokenSource,
)
from outrider_server.engine.engine import Engine
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.layout import Row, RowResult
from outrider_server.host.engine_host import EngineHost
from outrider_server.host.local import LocalVerifier
from outrider_server.models import TARGET_FOLDER, held_out_prompts
from outrider_server.speculation.decoder import decode_ahead, decode_synchronously
from outrider_server.speculation.turn import Turn
from tokenizers import Tokenizer

from .conftest import target_host
from .drafters import KINDS, TurnAt, open_drafter

SAMPLINGS = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature 0.7": SamplingParams(temperature=0.7),
    "temperature 1.0": SamplingParams(temperature=1.0),
    "top-k": SamplingParams(temperature=1.0, top_k=20),
    "top-p": SamplingParams(temperature=1.0, top_p=0.9),
    "min-p": SamplingParams(temperature=1.0, min_p=0.05),
    "repetition penalty": SamplingParams(temperature=0.7, repetition_penalty=1.3),
    "logit bias": SamplingParams(temperature=0.7, logit_bias={11: 4.0, 12: -4.0}),
}
NEW_TOKENS = 20
LOOPS = {"plain": decode_synchronously, "ahead": decode_ahead}
_session_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Case:
    """One sequence to compare."""

    sampling: str
    prompt: int
    kind: str
    window: int
    loop: str


class Limit:
    """Ends a turn after a number of tokens."""

    def __init__(self, tokens: int) -> None:
        self._left = tokens

    def accept(self, tokens: tuple[int, ...]) -> Accepted:
        kept = min(self._left, len(tokens))
        self._left -= kept
        return Accepted(kept, ("",) * kept, None if self._left else FinishReason.LENGTH)


class Nowhere:
    """Records nothing."""

    async def record(self, rounds: Sequence[Round]) -> None:
        del rounds


class Bench:
    """Runs sequences on one target and remembers what it says alone."""

    def __init__(self, target: EngineHost, drafts: dict[str, EngineHost]) -> None:
        tokenizer = Tokenizer.from_file(str(TARGET_FOLDER / "tokenizer.json"))
        self._prompts = [tuple(tokenizer.encode(text).ids[:60]) for text in held_out_prompts()]
        self._target = target
        self._drafts = drafts
        self._truths: dict[tuple[str, int], tuple[int, ...]] = {}
        self.compared = 0
        self.agreed = 0

    async def compare(self, cases: Iterable[Case]) -> None:
        """Runs cases at once; asserts that each equals the target alone."""
        todo = list(cases)
        truths = [await self._truth(case) for case in todo]
        outcomes = await asyncio.gather(*map(self._run, todo, truths))
        for case, truth, tokens in zip(todo, truths, outcomes, strict=True):
            assert tokens == truth, f"{case}: differs from the target alone"
            self.compared += 1

    async def _truth(self, case: Case) -> tuple[int, ...]:
        key = (case.sampling, case.prompt)
        if key not in self._truths:
            alone = Case(case.sampling, case.prompt, "none", 0, "plain")
            self._truths[key] = await self._run(alone, ())
        return self._truths[key]

    async def _run(self, case: Case, truth: tuple[int, ...]) -> tuple[int, ...]:
        prompt = self._prompts[case.prompt]
        draw = Draw(SAMPLINGS[case.sampling], seed=case.prompt + 17, generated_from=len(prompt))
        at = TurnAt(f"session {next(_session_numbers)}", prompt, draw, truth)
        verifier = await LocalVerifier.open(self._target, at.session_id, 1, prompt, draw)
        lead = case.window if case.loop == "plain" else case.window + 6
        drafter = await open_drafter(case.kind, at, self._drafts, lead)
        turn = Turn(prompt, verifier.known_length, case.window, Limit(NEW_TOKENS), NEW_TOKENS)
        tokens: list[int] = []
        async with aclosing(LOOPS[case.loop](turn, verifier, drafter, Nowhere())) as rounds:
            async for decided in rounds:
                tokens += decided.tokens
                self.agreed += sum(source is not TokenSource.TARGET for source in decided.sources)
        await drafter.close()
        await verifier.close()
        return tuple(tokens)


def single_cases() -> list[Case]:
    """Every sampling with every drafter and both loops; windows take turns."""
    windows = itertools.cycle(range(8))
    combinations = itertools.product(SAMPLINGS, KINDS, LOOPS)
    return [
        Case(sampling, prompt % 5, kind, next(windows), loop)
        for prompt, (sampling, kind, loop) in enumerate(combinations)
    ]


def window_cases() -> list[Case]:
    """Every window with the bundled draft, greedy and sampled, both loops."""
    combinations = itertools.product(("greedy", "temperature 1.0"), range(8), LOOPS)
    return [Case(sampling, 5, "bundled", window, loop) for sampling, window, loop in combinations]


def on_few_prompts(cases: list[Case]) -> list[Case]:
    """The same, of each sampling on two prompts: the target alone is asked less often. All prompts stay."""
    first = {sampling: number for number, sampling in enumerate(SAMPLINGS)}
    return [
        replace(case, prompt=(first[case.sampling] + 3 * (case.prompt % 2)) % 7) for case in cases
    ]


def crowds() -> list[list[Case]]:
    """Six sessions at once, each with another sampling, draft, window and loop."""
    samplings, kinds = itertools.cycle(SAMPLINGS), itertools.cycle(KINDS)
    loops, windows = itertools.cycle(LOOPS), itertools.cycle((7, 3, 5, 0, 4, 1, 6, 2))
    return [
        [
            Case(next(samplings), prompt % 7, next(kinds), next(windows), next(loops))
            for prompt in range(6 * group, 6 * group + 6)
        ]
        for group in range(22)
    ]


def few_crowds(count: int) -> list[list[Case]]:
    """The first ones, on few prompts."""
    return [on_few_prompts(group) for group in crowds()[:count]]


NO_COMPILER = not (shutil.which("g++") or shutil.which("clang++"))
needs_kernels = pytest.mark.skipif(
    bool(kernels_missing()), reason=f"the engine's own kernels: {kernels_missing()}"
)


async def keep_promise(
    target: EngineHost,
    drafts: dict[str, EngineHost],
    cases: list[Case],
    groups: list[list[Case]],
) -> Bench:
    """Runs the cases one after the other, then each group at once; asserts that no token differs."""
    bench = Bench(target, drafts)
    for case in cases:
        await bench.compare([case])
    for group in groups:
        await bench.compare(group)
    await target.stop()
    assert bench.agreed > bench.compared, "the comparison needs proposals that were accepted"
    return bench


def mixed_steps(engine: Engine) -> list[tuple[int, ...]]:
    """Lets the engine note the lengths of every step whose rows differ in length."""
    noted: list[tuple[int, ...]] = []
    decide = engine.runner.decide

    def watched(rows: Sequence[Row], bucket: int) -> list[RowResult]:
        lengths = tuple(len(row.tokens) for row in rows)
        if len(set(lengths)) > 1:
            noted.append(lengths)
        return decide(rows, bucket)

    engine.runner.decide = watched
    return noted


async def test_tokens_are_the_targets_with_any_draft_window_loop_and_neighbours(
    drafts: dict[str, EngineHost], record_property: pytest.RecordProperty
) -> None:
    """118 sequences of aligned float32 rows against the target alone."""
    target = await target_host("float32")
    engine = target.engine
    assert not engine.runner.layout.packed
    cases = on_few_prompts(single_cases()[::3] + window_cases())
    bench = await keep_promise(target, drafts, cases, few_crowds(8))
    record_property("sequences", bench.compared)
    assert bench.compared == 118


@needs_kernels
async def test_tokens_are_the_targets_when_its_rows_are_packed(
    drafts: dict[str, EngineHost], record_property: pytest.RecordProperty
) -> None:
    """All 276 in bfloat16 on the engine's own kernels, where sessions share steps without padding."""
    target = await target_host("bfloat16", compile_mode="auto")
    engine = target.engine
    assert engine.runner.layout.packed
    noted = mixed_steps(engine)
    bench = await keep_promise(target, drafts, single_cases() + window_cases(), crowds())
    record_property("sequences", bench.compared)
    assert bench.compared >= 250
    assert max(map(len, noted)) == 6, "six sessions have shared a step of rows of mixed lengths"


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float16"])
async def test_tokens_are_the_targets_when_it_is_recorded_in_another_dtype(
    dtype: str, drafts: dict[str, EngineHost]
) -> None:
    """A part of them. Parts take every so many, an odd number, and so both loops."""
    target = await target_host(dtype, compile_mode="auto")
    engine = target.engine
    assert engine.runner.layout.packed
    await keep_promise(target, drafts, on_few_prompts(single_cases()[::9]), few_crowds(3))


async def test_tokens_are_the_targets_when_bfloat16_rows_are_aligned(
    drafts: dict[str, EngineHost],
) -> None:
    """A part of them on torch's kernels, as on a machine that cannot run the engine's own."""
    target = await target_host("bfloat16")
    await keep_promise(target, drafts, on_few_prompts(single_cases()[::5]), few_crowds(6))


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
async def test_tokens_are_a_quantized_targets(
    quantization: str, drafts: dict[str, EngineHost]
) -> None:
    """A part of them with quantized weights; the target alone is the quantized one."""
    target = await target_host("bfloat16", quantization=quantization)
    engine = target.engine
    assert engine.describe().quantization == quantization
    cases = on_few_prompts(single_cases()[::25] + window_cases()[::15])
    await keep_promise(target, drafts, cases, few_crowds(1))


@needs_kernels
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
async def test_tokens_are_a_quantized_targets_when_its_rows_are_packed(
    quantization: str, drafts: dict[str, EngineHost]
) -> None:
    """More of them on the engine's own kernels."""
    target = await target_host("bfloat16", compile_mode="auto", quantization=quantization)
    engine = target.engine
    assert engine.runner.layout.packed
    noted = mixed_steps(engine)
    await keep_promise(target, drafts, single_cases()[::15] + window_cases()[::7], crowds()[:2])
    assert noted, "sessions have shared a step of rows of mixed lengths"


@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler is installed")
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
async def test_tokens_are_a_quantized_targets_when_its_steps_are_compiled(
    quantization: str, drafts: dict[str, EngineHost]
) -> None:
    """The same over compiled steps of the library's model, as they are where nothing is recorded."""
    target = await target_host("bfloat16", "on", quantization, attention="sdpa")
    engine = target.engine
    assert engine.runner.compiled, engine.runner.compile_note
    assert not engine.runner.layout.packed
    await keep_promise(target, drafts, on_few_prompts(single_cases()[::31]), few_crowds(1))


@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler is installed")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
async def test_tokens_are_the_targets_when_its_steps_are_compiled(
    dtype: str, drafts: dict[str, EngineHost]
) -> None:
    """A part of them over compiled steps of the library's model, which have other bits than eager ones."""
    target = await target_host(dtype, "on", attention="sdpa")
    engine = target.engine
    assert engine.runner.compiled, engine.runner.compile_note
    assert not engine.runner.layout.packed
    await keep_promise(target, drafts, on_few_prompts(single_cases()[::5]), few_crowds(6))
