"""The engine against the library's own generation, on the bundled target in float32."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import torch
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.host.engine_host import EngineHost
from outrider_server.host.local import LocalVerifier
from outrider_server.models import TARGET_FOLDER, held_out_prompts
from outrider_server.speculation.decoder import decode_synchronously
from outrider_server.speculation.ngram import NgramDrafter
from outrider_server.speculation.turn import Turn
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from .conftest import target_host
from .test_promise import Limit, Nowhere

PROMPTS = 20
PROMPT_TOKENS = 64
NEW_TOKENS = 64
NEAR_TIE = 1e-3
"""Two logits closer than this may change places when the shape of a product changes."""


async def generated_here(target: EngineHost, prompt: tuple[int, ...], name: str) -> list[int]:
    """Greedy tokens of the engine, with n-gram drafts."""
    draw = Draw(SamplingParams(temperature=0.0), seed=0, generated_from=len(prompt))
    verifier = await LocalVerifier.open(target, name, 1, prompt, draw)
    turn = Turn(prompt, verifier.known_length, 7, Limit(NEW_TOKENS), NEW_TOKENS)
    tokens: list[int] = []
    decoding = decode_synchronously(turn, verifier, NgramDrafter(prompt), Nowhere())
    async with aclosing(decoding) as rounds:
        async for decided in rounds:
            tokens += decided.tokens
    await verifier.close()
    return tokens


def generated_by_library(model: LlamaForCausalLM, prompt: tuple[int, ...]) -> list[int]:
    """Greedy tokens of `generate`, never ending early."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@torch.no_grad()
def margin_at(model: LlamaForCausalLM, tokens: list[int]) -> float:
    """How far the two largest logits after `tokens` are apart, by the library."""
    top = model(torch.tensor([tokens])).logits[0, -1].topk(2).values
    return float(top[0] - top[1])


async def test_greedy_tokens_equal_the_librarys_or_part_at_a_near_tie(
    record_property: pytest.RecordProperty,
) -> None:
    tokenizer = Tokenizer.from_file(str(TARGET_FOLDER / "tokenizer.json"))
    encoded = [tuple(tokenizer.encode(text).ids[:PROMPT_TOKENS]) for text in held_out_prompts()]
    prompts = [prompt for prompt in encoded if len(prompt) == PROMPT_TOKENS][:PROMPTS]
    assert len(prompts) == PROMPTS
    model = AutoModelForCausalLM.from_pretrained(TARGET_FOLDER, dtype=torch.float32).eval()
    target = await target_host("float32")
    equal = 0
    for number, prompt in enumerate(prompts):
        here = await generated_here(target, prompt, f"library {number}")
        there = generated_by_library(model, prompt)
        parting = next((i for i in range(NEW_TOKENS) if here[i] != there[i]), None)
        if parting is None:
            equal += 1
            continue
        margin = margin_at(model, [*prompt, *there[:parting]])
        print(f"prompt {number} parts at token {parting}; the margin there is {margin:.2e}")
        assert margin < NEAR_TIE
    await target.stop()
    print(f"{equal} of {PROMPTS} prompts equal over {NEW_TOKENS} tokens")
    record_property("equal", equal)
    assert equal >= PROMPTS - 1
