"""What a service says about its model, free of torch and of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShapeFinding:
    """One audited shape of a step, and how far its logits are from the reference's."""

    rows: int
    width: int
    variation: str
    identical: bool
    max_difference: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class ShapeAudit:
    """What the audit at start-up found, and the row buckets that may be used."""

    reproducible: bool
    row_buckets: tuple[int, ...]
    findings: tuple[ShapeFinding, ...]
    logits_digest: str = ""
    """Hex BLAKE2b-64 of the reference's logits, float32 in order."""

    @property
    def all_interchangeable(self) -> bool:
        """True when every audited shape agreed with the reference bit for bit."""
        return all(finding.identical for finding in self.findings)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as a service holds it; the fields are those of the proto of the same name."""

    name: str
    architecture: str
    model_fingerprint: str
    vocabulary_fingerprint: str
    vocabulary_size: int
    end_token_ids: tuple[int, ...]
    max_context_tokens: int
    width: int
    slots: int
    parameter_count: int
    dtype: str
    device: str
    quantization: str
    compiled: bool
    """True when steps run recorded or compiled."""
    compile_note: str
    kernel_note: str
    attention: str
    attention_note: str
    shape_audit: ShapeAudit
    tokenizer_size: int
    output_rows: int
    generation_defaults: Mapping[str, float]
    """Sampling parameters by name, as generation_config.json has them."""
    ranks: int = 1
    arithmetic: str = ""
    """How logits are computed, digest included; empty where that is not known."""
    known_tokens: int = 0
    """How many of the ids a draft with a vocabulary of its own knows; 0 of any other model."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The files that turn text into tokens and back."""

    tokenizer_json: bytes
    chat_template: str
    begin_token: str
    end_token: str
    pad_token: str = ""
    unknown_token: str = ""
    tool_chat_template: str = ""
