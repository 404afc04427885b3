"""The peer `transformers`: the library's own `generate`, in every mode that could be faster than plain.

Runs as a process: `python -m outrider_bench.transformers_peer --target DIR --draft DIR`.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from outrider_server.engine.cache_argument import cache_argument
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CompileConfig,
    StaticCache,
    set_seed,
)
from transformers.utils import logging as library_logging

from .peer_process import serve_peer

if TYPE_CHECKING:
    from transformers.models.auto.modeling_auto import _BaseModelWithGenerate

CACHE_BLOCK = 512
"""The static cache holds a multiple of so many tokens, so that prompts of all lengths share one graph."""


class TransformersPeer:
    """Both models, and the ways to generate with them."""

    def __init__(self, target: Path, draft: Path | None) -> None:
        self._target = _load(target)
        self._draft = _load(draft) if draft else None
        self._static: dict[int, StaticCache] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Generates `tokens` tokens, never fewer: the end token stops nothing."""
        torch.set_num_threads(question["threads"])
        set_seed(question["seed"] % 2**32)
        prompt = torch.tensor([question["prompt"]])
        count = question["tokens"]
        with torch.inference_mode():
            settings = self._sampling(question["temperature"])
            settings |= self._mode(question, prompt.shape[1])
            started = time.perf_counter()
            output = self._target.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=count,
                **settings,
            )
            seconds = time.perf_counter() - started
        tokens = output[0, prompt.shape[1] :].tolist()
        if len(tokens) != count:
            raise RuntimeError(f"asked for {count} tokens, got {len(tokens)}")
        return {"tokens": tokens, "seconds": seconds}

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


def _load(folder: Path) -> _BaseModelWithGenerate:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
    )
    module: nn.Module = model  # the library's own `eval` has no types
    module.eval()
    config = model.generation_config
    config.pad_token_id = 0 if config.pad_token_id is None else config.pad_token_id
    config.eos_token_id = None
    return model


def main() -> None:
    """Answers on the standard streams until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--draft", type=Path)
    arguments = parser.parse_args()
    library_logging.set_verbosity(logging.ERROR)
    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.simplefilter("ignore")
    serve_peer(lambda: TransformersPeer(arguments.target, arguments.draft).answer)


if __name__ == "__main__":
    main()
