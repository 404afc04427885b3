"""What a model computes from the length of a whole session: the frequencies of some rotary embeddings.

The library takes the largest position of a step for the length of all that are read in it. Here each token is
read at a length of its own, by its session's, which is what the library's generation gives that session when
it is alone. Pure decisions over a configuration; `rotary.py` computes by them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

REREAD_BY_LIBRARY = frozenset({"phi3", "phi4_multimodal", "phimoe"})
"""Model types whose generation drops the cache, and so reads everything anew, where a context outgrows the
border. A test compares the list with the library's source."""


@dataclass(frozen=True, slots=True)
class LengthRule:
    """Up to `border` tokens nothing depends on the length.

    Beyond it a token is read at the length max(reading, position + 1), where `reading` is the session's: 0,
    or a length beyond the border. Keys that were read for one reading are of no use for another.
    """

    border: int
    reread: bool = False
    """The whole context is of one kind, and read anew where it outgrows the border. Else what was there
    before the turn's first generated token is read at its length, and each later token at its own."""
    grows: bool = False
    """Each length beyond the border has frequencies of its own; else all have the same."""

    def reading(self, length: int, generated_from: int) -> int:
        """At what a context of `length` tokens is read, in a turn that generates from that position on."""
        decisive = length if self.reread else generated_from
        if decisive <= self.border:
            return 0
        return decisive if self.grows else self.border + 1

    def reach(self, length: int) -> int:
        """The longest context that may share a step with one of `length` tokens."""
        return self.border if self.reread and length <= self.border else sys.maxsize


ANY_LENGTH = LengthRule(border=sys.maxsize)
"""The rule of a model that computes each token from its own position."""


def length_rule(config: PreTrainedConfig) -> LengthRule:
    """The rule of a model with this configuration."""
    rules = [_rule_of(config, parameters) for parameters in rope_parameters(config).values()]
    return min(rules, key=lambda rule: rule.border, default=ANY_LENGTH)


def rope_parameters(config: PreTrainedConfig) -> dict[str, Mapping[str, Any]]:
    """What a configuration says of rotary embeddings, by kind of layer; under "" where all have the same."""
    named = getattr(config, "rope_parameters", None) or {}
    nested = {kind: value for kind, value in named.items() if isinstance(value, Mapping)}
    return nested or ({"": named} if named else {})


def _rule_of(config: PreTrainedConfig, parameters: Mapping[str, Any]) -> LengthRule:
    kind = parameters.get("rope_type", "default")
    if kind == "longrope":
        border = int(parameters.get("original_max_position_embeddings") or longest_context(config))
        return LengthRule(border, reread=config.model_type in REREAD_BY_LIBRARY)
    if kind == "dynamic":
        return LengthRule(int(config.max_position_embeddings), grows=True)
    return ANY_LENGTH


def longest_context(config: PreTrainedConfig) -> int:
    """The most positions that the configuration names; 0 where it names none."""
    named = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return int(named or 0)


def furthest_context(config: PreTrainedConfig) -> int:
    """The most positions that the model can be asked for: those named, or more where its rotary embedding is
    scaled beyond them, as much as every kind of layer is."""
    named = longest_context(config)
    reached = [_scaled(named, parameters) for parameters in rope_parameters(config).values()]
    return max(named, min(reached, default=0))


def _scaled(named: int, parameters: Mapping[str, Any]) -> int:
    """What a scaling factor makes of the context before it, which is the one named where it names none."""
    before = parameters.get("original_max_position_embeddings") or named
    return int(before * (parameters.get("factor") or 1))
