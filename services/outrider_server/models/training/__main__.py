"""Trains the whole pair: tokenizer, target, draft, prompts. Defaults are the shipped pair's."""

import argparse
import logging
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from .architecture import draft_config, target_config
from .corpus import encode_files, load_corpus
from .distill import DistillationPlan, distil, sample_from_target
from .evaluate import load_model, report
from .export import export_model
from .prompts import cut_prompts, write_prompts
from .tokenizer import document_start_id, train_tokenizer
from .train import TrainingPlan, train_on_corpus


def main() -> None:
    """Run every stage into `--out`; an interrupted run goes on from its last checkpoint."""
    arguments = _parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus()
    tokenizer = train_tokenizer(corpus.training)
    start = document_start_id(tokenizer)
    stream = encode_files(tokenizer, corpus.training, start, arguments.seed)
    write_prompts(cut_prompts(tokenizer, corpus.held_out), out / "prompts.jsonl")
    _train_target(arguments, tokenizer, stream)
    _train_draft(arguments, tokenizer, stream)
    print(report(out, arguments.seed))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="outrider_server.models.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for models and state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target-steps", type=int, default=1900)
    parser.add_argument("--draft-steps", type=int, default=1000, help="on the corpus")
    parser.add_argument("--sample-groups", type=int, default=24, help="of 96 target samples")
    parser.add_argument("--distil-steps", type=int, default=600)
    return parser.parse_args()


def _new_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    # On a CPU the plain attention trains faster than the fused one.
    model: LlamaForCausalLM = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation="eager"
    )
    return model


def _train_target(
    arguments: argparse.Namespace, tokenizer: Tokenizer, stream: torch.Tensor
) -> None:
    model = _new_model(target_config(document_start_id(tokenizer)), arguments.seed)
    plan = TrainingPlan(steps=arguments.target_steps)
    train_on_corpus(model, stream, plan, arguments.seed, arguments.out / "target.pt")
    export_model(model, tokenizer, arguments.out / "target")


def _train_draft(arguments: argparse.Namespace, tokenizer: Tokenizer, stream: torch.Tensor) -> None:
    out, seed = arguments.out, arguments.seed
    draft = _new_model(draft_config(document_start_id(tokenizer)), seed)
    plan = TrainingPlan(steps=arguments.draft_steps, rate_scale=1.5)
    train_on_corpus(draft, stream, plan, seed, out / "draft.pt")
    target = load_model(out / "target")
    samples_path = out / "samples.pt"
    if not samples_path.exists():
        samples = sample_from_target(target, stream, arguments.sample_groups, seed)
        torch.save(samples, samples_path)
    samples = torch.load(samples_path, weights_only=True)
    distil(draft, target, samples, stream, DistillationPlan(arguments.distil_steps), seed)
    export_model(draft, tokenizer, out / "draft")


if __name__ == "__main__":
    main()
