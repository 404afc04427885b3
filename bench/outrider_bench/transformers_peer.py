"""The peer `transformers`: the library's own `generate`, in every mode that could be faster than plain.

Runs as a process: `python -m outrider_bench.transformers_peer --target DIR --draft DIR`.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from outrider_server.engine.cache_argument import cache_argument
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.model.quantizing import NONE
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CompileConfig,
    StaticCache,
    set_seed,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging as library_logging

from .peer_process import serve_peer

if TYPE_CHECKING:
    from transformers.models.auto.modeling_auto import _BaseModelWithGenerate

CACHE_BLOCK = 512
"""The static cache holds a multiple of so many tokens, so that prompts of all lengths share one graph."""


class TransformersPeer:
    """Both models, and the ways to generate with them."""

    def __init__(self, target: Path, draft: Path | None, quantization: str = NONE) -> None:
        self._target, self._ends = _load(target, quantization)
        self._draft = _load(draft, quantization)[0] if draft else None
        self._static: dict[int, StaticCache] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Generates `tokens` tokens; fewer only in a chat, which the end token ends."""
        torch.set_num_threads(question["threads"])
        set_seed(question["seed"] % 2**32)
        prompt = torch.tensor([question["prompt"]])
        count = question["tokens"]
        with torch.inference_mode():
            settings = self._sampling(question["temperature"])
            settings |= self._mode(question, prompt.shape[1])
            chat = _Chat() if question["chat"] else None
            if chat is not None:
                settings |= {"streamer": chat, "eos_token_id": self._ends or None}
            if self._draft is not None:
                ends = self._ends if question["chat"] else None
                self._draft.generation_config.eos_token_id = ends or None
            with _counted_steps(self._target, guessing="guesses" in question) as steps:
                started = time.perf_counter()
                output = self._target.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=count,
                    **settings,
                )
                seconds = time.perf_counter() - started
        tokens = output[0, prompt.shape[1] :].tolist()
        if len(tokens) != count and chat is None:
            raise RuntimeError(f"asked for {count} tokens, got {len(tokens)}")
        return {
            "tokens": tokens,
            "seconds": seconds,
            "first_seconds": chat.arrived - started if chat is not None else None,
            "accepted": max(0, len(tokens) - len(steps)) if steps else 0,
        }

    def _sampling(self, temperature: float) -> dict[str, Any]:
        if temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}

    def _mode(self, question: dict[str, Any], prompt_length: int) -> dict[str, Any]:
        mode = question["mode"]
        if mode == "plain":
            return {}
        if mode == "lookup":
            return {"prompt_lookup_num_tokens": question["guesses"]}
        if mode == "assisted":
            assert self._draft is not None
            settings = self._draft.generation_config
            settings.num_assistant_tokens = question["guesses"]
            settings.num_assistant_tokens_schedule = "constant"
            settings.assistant_confidence_threshold = question["threshold"]
            return {"assistant_model": self._draft}
        if mode == "static":
            length = -(-(prompt_length + question["tokens"]) // CACHE_BLOCK) * CACHE_BLOCK
            # `generate` compiles by itself on accelerators only; this asks for it here too.
            config = CompileConfig(fullgraph=True, dynamic=False, mode="default")
            config._compile_all_devices = True  # type: ignore[assignment]
            name = cache_argument(self._target)
            return {name: self._static_cache(length), "compile_config": config}
        raise ValueError(f"no such mode: {mode}")

    def _static_cache(self, length: int) -> StaticCache:
        if length not in self._static:
            self._static[length] = StaticCache(config=self._target.config, max_cache_len=length)
        self._static[length].reset()  # type: ignore[no-untyped-call]
        return self._static[length]


class _Chat(BaseStreamer):
    """Notes when the first token came; what is put before it is the prompt."""

    def __init__(self) -> None:
        self.arrived = 0.0
        self._puts = 0

    def put(self, value: torch.Tensor) -> None:
        """Takes tokens, of whatever shape."""
        self._puts += 1
        if self._puts == 2:
            self.arrived = time.perf_counter()

    def end(self) -> None:
        """Nothing to do."""


@contextmanager
def _counted_steps(model: nn.Module, guessing: bool) -> Iterator[list[None]]:
    """An entry for each step of the target; none where nothing guesses, whose graph a hook would break."""
    steps: list[None] = []
    if not guessing:
        yield steps
        return
    hook = model.register_forward_pre_hook(lambda *_: steps.append(None))
    try:
        yield steps
    finally:
        hook.remove()


def _load(folder: Path, quantization: str) -> tuple[_BaseModelWithGenerate, list[int]]:
    """A model that no token ends, and its end tokens."""
    if quantization == NONE:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
        )
    else:
        quantized = load_model(folder, "bfloat16", torch.device("cpu"), quantization).model
        quantized.set_attn_implementation("sdpa")
        model = cast("_BaseModelWithGenerate", quantized)
    module: nn.Module = model  # the library's own `eval` has no types
    module.eval()
    config = model.generation_config
    config.pad_token_id = 0 if config.pad_token_id is None else config.pad_token_id
    ends = config.eos_token_id
    config.eos_token_id = None
    return model, ends if isinstance(ends, list) else [] if ends is None else [ends]


def main() -> None:
    """Answers on the standard streams until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--quantization", default=NONE)
    arguments = parser.parse_args()
    library_logging.set_verbosity(logging.ERROR)
    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.simplefilter("ignore")
    serve_peer(
        lambda: TransformersPeer(arguments.target, arguments.draft, arguments.quantization).answer
    )


if __name__ == "__main__":
    main()
