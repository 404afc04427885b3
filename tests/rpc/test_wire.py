"""Proto messages and domain types: nothing is lost on the way there and back, over real bytes."""

from __future__ import annotations

from typing import TypeVar

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from outrider.v1 import target_pb2, types_pb2
from outrider_server.core.description import (
    ModelDescription,
    ShapeAudit,
    ShapeFinding,
    TokenizerFiles,
)
from outrider_server.core.errors import InvalidRequest
from outrider_server.core.types import MAX_SEED, Draw, SamplingParams, Step, TokenLogprobs, Verdict
from outrider_server.rpc import wire

M = TypeVar("M", bound=Message)

TOKEN = st.integers(0, 2**31 - 1)
TOKENS = st.lists(TOKEN, max_size=12).map(tuple)
POSITION = st.integers(0, 2**31 - 1)
FLOAT = st.floats(-1e9, 0, width=32)
SAMPLING = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0, 100, exclude_min=True),
    frequency_penalty=st.floats(-100, 100),
    presence_penalty=st.floats(-100, 100),
    logit_bias=st.dictionaries(
        TOKEN, st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=4
    ),
)
LOGPROBS = st.builds(TokenLogprobs, FLOAT, st.lists(st.tuples(TOKEN, FLOAT), max_size=4).map(tuple))
FINDING = st.builds(
    ShapeFinding,
    st.integers(1, 64),
    st.integers(1, 64),
    st.text(max_size=9),
    st.booleans(),
    st.floats(0, 1e9),
    st.booleans(),
)


def over_bytes(message: M) -> M:
    return type(message).FromString(message.SerializeToString())


@given(SAMPLING)
def test_sampling_survives(sampling: SamplingParams) -> None:
    assert wire.sampling_from_proto(over_bytes(wire.sampling_to_proto(sampling))) == sampling


def test_absent_sampling_is_the_default() -> None:
    assert wire.sampling_from_proto(types_pb2.SamplingParams()) == SamplingParams()


def test_an_explicit_zero_is_not_an_absent_field() -> None:
    message = types_pb2.SamplingParams(temperature=0.0)
    assert wire.sampling_from_proto(over_bytes(message)).temperature == 0
    for name in ("top_p", "repetition_penalty"):
        with pytest.raises(InvalidRequest, match=name):
            wire.sampling_from_proto(types_pb2.SamplingParams(**{name: 0.0}))


def test_a_number_out_of_range_on_the_wire_is_refused() -> None:
    for field in ({"temperature": float("nan")}, {"top_k": -1}, {"logit_bias": {1: float("inf")}}):
        with pytest.raises(InvalidRequest):
            wire.sampling_from_proto(over_bytes(types_pb2.SamplingParams(**field)))


@given(
    SAMPLING,
    st.integers(0, MAX_SEED),
    POSITION,
    st.none() | st.integers(0, 20),
    TOKENS,
    POSITION,
)
def test_a_draw_survives(
    sampling: SamplingParams,
    seed: int,
    generated_from: int,
    logprobs: int | None,
    withheld: tuple[int, ...],
    min_new_tokens: int,
) -> None:
    message = target_pb2.VerifyOpen(
        sampling=wire.sampling_to_proto(sampling),
        seed=seed,
        generated_from=generated_from,
        logprobs=logprobs,
        withheld_token_ids=withheld,
        min_new_tokens=min_new_tokens,
    )
    ends = {"withheld": withheld, "min_new_tokens": min_new_tokens}
    wanted = Draw(sampling, seed, generated_from, logprobs, **ends)
    assert wire.draw_from_open(over_bytes(message)) == wanted


@given(POSITION, TOKENS, TOKENS, st.lists(st.floats(width=32, allow_nan=False)).map(tuple))
def test_a_step_survives_even_with_chances_that_cannot_be(
    start: int, context: tuple[int, ...], proposed: tuple[int, ...], survival: tuple[float, ...]
) -> None:
    """Their range is checked where the step is run."""
    step = Step(start, context, proposed, survival)
    assert wire.step_from_proto(over_bytes(wire.step_to_proto(step))) == step


@given(
    POSITION,
    st.integers(-1, 9),
    TOKENS,
    st.lists(LOGPROBS, max_size=3).map(tuple),
    st.none() | st.integers(-1, 9),
)
def test_a_verdict_survives_even_a_wrong_one(
    start: int,
    agreed: int,
    tokens: tuple[int, ...],
    logprobs: tuple[TokenLogprobs, ...],
    verified: int | None,
) -> None:
    """The check of a verdict is its reader's; the wire only carries it. None verified is not 0 verified."""
    verdict = Verdict(start, agreed, tokens, logprobs, verified)
    message = over_bytes(wire.verdict_to_proto(verdict, 0.0123456, 0.5))
    assert wire.verdict_from_proto(message) == verdict
    assert (message.step_us, message.prefill_us) == (12346, 500_000)


def description(findings: tuple[ShapeFinding, ...], buckets: tuple[int, ...]) -> ModelDescription:
    return ModelDescription(
        name="tiny",
        architecture="LlamaForCausalLM",
        model_fingerprint="ab",
        vocabulary_fingerprint="cd",
        vocabulary_size=61,
        tokenizer_size=61,
        output_rows=64,
        generation_defaults={"top_k": 0, "top_p": 0.9},
        end_token_ids=(1, 2),
        max_context_tokens=256,
        width=8,
        slots=4,
        parameter_count=10**11,
        dtype="bfloat16",
        device="cpu",
        quantization="nf4",
        compiled=True,
        compile_note="",
        kernel_note="the kernels take bfloat16 weights only",
        attention="sdpa",
        attention_note="sdpa was asked for",
        shape_audit=ShapeAudit(True, buckets, findings),
        ranks=4,
        known_tokens=16,
    )


@given(st.lists(FINDING, max_size=6).map(tuple), st.lists(st.integers(1, 64)).map(tuple))
def test_a_description_survives(
    findings: tuple[ShapeFinding, ...], buckets: tuple[int, ...]
) -> None:
    wanted = description(findings, buckets)
    message = over_bytes(wire.description_to_proto(wanted))
    assert wire.description_from_proto(message) == wanted
    assert message.shape_audit.all_interchangeable == all(found.identical for found in findings)


def test_a_service_that_says_nothing_of_ranks_is_one_process() -> None:
    message = wire.description_to_proto(description((), ()))
    message.ClearField("ranks")
    assert wire.description_from_proto(message).ranks == 1


@given(st.binary(max_size=50), st.tuples(*[st.text(max_size=9)] * 6))
def test_tokenizer_files_survive(content: bytes, texts: tuple[str, ...]) -> None:
    files = TokenizerFiles(content, *texts)
    assert wire.tokenizer_from_proto(over_bytes(wire.tokenizer_to_proto(files))) == files
