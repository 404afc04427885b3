"""Records where the bundled draft agrees with the bundled target; run by hand, not by the tests.

    OMP_NUM_THREADS=1 python tests/speculation/traces/record.py

The target continues held-out prompts by up to 256 tokens with the engine's own draw and noise. The draft then
reads the finished text once and draws at every position with the same noise. A trace has one character a
token: 1 where both drew the same. Writes one file a temperature beside this script.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.cache_argument import cache_argument
from outrider_server.engine.drawing.noise import gumbel_noise
from outrider_server.engine.drawing.sampling import DrawTable, draw_tokens
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER, held_out_prompts
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel

PROMPTS = 12
NEW_TOKENS = 256
TEMPERATURES = (0.0, 0.7, 1.0)
DEVICE = torch.device("cpu")


def draw(logits: torch.Tensor, first_position: int, draw: Draw) -> list[int]:
    """The tokens drawn after the positions from `first_position` on: [1, W, V] logits -> W tokens."""
    table = DrawTable(1, DEVICE)
    table.write(0, draw)
    positions = torch.arange(first_position, first_position + logits.shape[1]).unsqueeze(0)
    slots = torch.zeros(1, dtype=torch.int64)
    drawn = draw_tokens(logits.float(), positions, slots, table, table.features([0]), gumbel_noise)
    return [int(token) for token in drawn[0]]


def continue_with_target(target: PreTrainedModel, prompt: list[int], how: Draw) -> list[int]:
    """The target's tokens after the prompt; ends at the end token or after `NEW_TOKENS`."""
    tokens = list(prompt)
    cache = DynamicCache(config=target.config)
    unread = tokens
    while len(tokens) < len(prompt) + NEW_TOKENS:
        out = target(torch.tensor([unread]), use_cache=True, **{cache_argument(target): cache})
        unread = draw(out.logits[:, -1:], len(tokens) - 1, how)
        tokens += unread
        if unread[0] == target.config.eos_token_id:
            break
    return tokens


def trace(target: PreTrainedModel, draft: PreTrainedModel, prompt: list[int], how: Draw) -> str:
    """The agreement at every generated token."""
    tokens = continue_with_target(target, prompt, how)
    logits = draft(torch.tensor([tokens[:-1]])).logits
    guesses = draw(logits[:, len(prompt) - 1 :], len(prompt) - 1, how)
    return "".join(
        str(int(pair[0] == pair[1])) for pair in zip(guesses, tokens[len(prompt) :], strict=True)
    )


@torch.inference_mode()
def main() -> None:
    """Records every prompt at every temperature."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(TARGET_FOLDER, local_files_only=True)
    target = AutoModelForCausalLM.from_pretrained(TARGET_FOLDER, local_files_only=True).eval()
    draft = AutoModelForCausalLM.from_pretrained(DRAFT_FOLDER, local_files_only=True).eval()
    prompts = [tokenizer(text)["input_ids"] for text in held_out_prompts()[:PROMPTS]]
    for temperature in TEMPERATURES:
        traces = [
            trace(
                target,
                draft,
                prompt,
                Draw(SamplingParams(temperature=temperature), seed, len(prompt)),
            )
            for seed, prompt in enumerate(prompts)
        ]
        agreed = sum(one.count("1") for one in traces) / sum(map(len, traces))
        path = Path(__file__).with_name(f"temperature-{temperature}.json")
        content = {"temperature": temperature, "traces": traces}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"{path.name}: {len(traces)} traces, {agreed:.3f} agreed")


if __name__ == "__main__":
    main()
