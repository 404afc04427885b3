"""The model card of a draft: what it was made of, and how good it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .judging import HeldOut
from .reply import Reply


@dataclass(frozen=True, slots=True)
class SourceCount:
    """What comes from one source."""

    source: str
    replies: int
    tokens: int


def count_sources(replies: Iterable[Reply]) -> list[SourceCount]:
    """Replies and their tokens by source, the largest first."""
    counts: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for reply in replies:
        counts[reply.source] += 1
        tokens[reply.source] += len(reply.tokens)
    return [SourceCount(source, counts[source], most) for source, most in tokens.most_common()]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells."""

    name: str
    target: str
    target_fingerprint: str
    architecture: str
    layers: Sequence[int]
    rows: int
    target_rows: int
    parameters: int
    sources: Sequence[SourceCount]
    held_out_replies: int
    objective: str
    steps: int
    seed: int
    command: str
    first: HeldOut | None
    best: HeldOut
    expected: str


def write_card(facts: CardFacts) -> str:
    """The card in Markdown."""
    lines = [
        f"# {facts.name}",
        "",
        f"A draft for speculative decoding with the target `{facts.target}`, made by "
        "`outrider-server distill`. It is no model for any other use: it guesses what that target would say.",
        "",
        "| | |",
        "|---|---|",
        f"| target's fingerprint | `{facts.target_fingerprint}` |",
        f"| architecture | {facts.architecture}, the target's layers {', '.join(map(str, facts.layers))} |",
        f"| vocabulary | {facts.rows:,} rows of the target's {facts.target_rows:,} |",
        f"| parameters | {facts.parameters:,} |",
        f"| objective | {facts.objective} |",
        f"| steps, seed | {facts.steps:,}, {facts.seed} |",
        "",
        "Made by",
        "",
        f"    {facts.command}",
        "",
        "## What it learnt from",
        "",
        "Replies of the target's own, as they were drawn.",
        "",
        "| source | replies | reply tokens |",
        "|---|---:|---:|",
        *(
            f"| {each.source or 'not named'} | {each.replies:,} | {each.tokens:,} |"
            for each in facts.sources
        ),
        "",
        "## How good it is",
        "",
        f"On {facts.held_out_replies:,} replies, of {facts.best.positions:,} tokens, to prompts that it "
        f"never learnt from. {facts.expected[:1].upper()}{facts.expected[1:]}.",
        "",
        *_figures(facts),
        "",
        "## Limits",
        "",
        "- Held-out replies are of the same kinds of prompts as those that it learnt from. On others it "
        "agrees less.",
        "- Chances of agreement are lower bounds: a token that is not among the target's 64 best counts as "
        "refused.",
        "- Another target, or the same one fine-tuned, may be guessed much worse. The text is the target's "
        "in any case.",
    ]
    return "\n".join(lines) + "\n"


def _figures(facts: CardFacts) -> list[str]:
    judged = [("after training", facts.best)]
    if facts.first is not None:
        judged.insert(0, ("before", facts.first))
    temperatures = [each for each, _ in facts.best.by_temperature]
    head = ["", "same most probable token", "agreement"] + [f"at {each:g}" for each in temperatures]
    rows = [
        [name, f"{found.same:.3f}", f"{found.agreement:.3f}"]
        + [f"{chance:.3f}" for _, chance in found.by_temperature]
        for name, found in judged
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return [f"| {' | '.join(each)} |" for each in lines]
