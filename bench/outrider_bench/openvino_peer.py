"""The peer OpenVINO GenAI: its own pipeline, plain, with the draft model, and with prompt lookup.

Runs as a process in a Python that has openvino-genai:
`python -m outrider_bench.openvino_peer --target FILE.gguf --draft FILE.gguf`.
Knows the standard library and that package only, which reads GGUF files and writes its own format beside
them: it takes nothing else for a draft model. What a pipeline keeps of earlier prompts is off.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from .peer_lines import Answer, serve_peer

INSTALL = "OpenVINO GenAI is not installed in that Python: pip install openvino-genai"
LOOKUP_NGRAM = 3
KEPT = "openvino_model.xml"


class OpenVinoPeer:
    """A pipeline for each mode, made when it is first asked for."""

    def __init__(
        self,
        library: Any,
        target: Path,
        draft: Path | None,
        ends: list[int],
        options: dict[str, str],
    ) -> None:
        self._library = library
        self._ends = ends
        self._options = options
        self._target = self._converted(target)
        self._draft = self._converted(draft) if draft else None
        self._pipelines: dict[tuple[str, str], Any] = {}
        self.pipeline("plain", "PA")

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Generates; a chat ends at the end token. `accepted` is None for prompt lookup, which tells none.

        The first token's time is the library's own: it hands text out later than its tokens are there.
        """
        pipeline = self.pipeline(question["mode"], question["backend"])
        inputs = self._inputs(question["prompt"])
        config = self._config(pipeline, question)
        started = time.perf_counter()
        result = pipeline.generate(inputs, config)
        seconds = time.perf_counter() - started
        accepted = 0 if question["mode"] == "plain" else None
        if question["mode"] == "draft":
            accepted = result.extended_perf_metrics.get_num_accepted_tokens()
        return {
            "tokens": list(result.tokens[0]),
            "seconds": seconds,
            "first_seconds": result.perf_metrics.get_ttft().mean / 1000,
            "accepted": accepted,
        }

    def pipeline(self, mode: str, backend: str) -> Any:
        """The pipeline of a mode: plain, draft or lookup, on paged attention (PA) or not (SDPA)."""
        if (mode, backend) not in self._pipelines:
            options: dict[str, Any] = {**self._options, "ATTENTION_BACKEND": backend}
            if backend == "PA":
                options["scheduler_config"] = scheduler = self._library.SchedulerConfig()
                scheduler.enable_prefix_caching = False
            if mode == "draft":
                options["draft_model"] = self._library.draft_model(
                    self._draft, "CPU", **self._options
                )
            if mode == "lookup":
                options["prompt_lookup"] = True
            self._pipelines[mode, backend] = self._library.LLMPipeline(
                self._target, "CPU", **options
            )
        return self._pipelines[mode, backend]

    def _converted(self, file: Path) -> str:
        """The folder of a GGUF file with the library's own format in it."""
        if not (file.parent / KEPT).is_file():
            self._library.LLMPipeline(str(file), "CPU", enable_save_ov_model=True, **self._options)
        return str(file.parent)

    def _inputs(self, prompt: list[int]) -> Any:
        import numpy
        import openvino

        tokens = numpy.array([prompt], dtype=numpy.int64)
        mask = openvino.Tensor(numpy.ones_like(tokens))
        return self._library.TokenizedInputs(openvino.Tensor(tokens), mask)

    def _config(self, pipeline: Any, question: dict[str, Any]) -> Any:
        config = pipeline.get_generation_config()
        config.max_new_tokens = question["tokens"]
        config.ignore_eos = not question["chat"]
        config.stop_token_ids = set(self._ends)
        config.do_sample = question["temperature"] > 0
        if config.do_sample:
            config.temperature, config.top_p, config.top_k = question["temperature"], 1.0, 0
            config.rng_seed = question["seed"]
        if question["mode"] != "plain":
            config.num_assistant_tokens = question["guesses"]
        if question["mode"] == "lookup":
            config.max_ngram_size = LOOKUP_NGRAM
        return config


def main() -> None:
    """Answers on the standard streams until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--end", type=int, action="append", default=[], help="An end token.")
    parser.add_argument("--precision", help="Of products; by default the library's choice.")
    arguments = parser.parse_args()

    def build() -> Answer:
        try:
            import openvino_genai
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(INSTALL) from error
        options = {"INFERENCE_PRECISION_HINT": arguments.precision} if arguments.precision else {}
        return OpenVinoPeer(
            openvino_genai, arguments.target, arguments.draft, arguments.end, options
        ).answer

    serve_peer(build)


if __name__ == "__main__":
    main()
