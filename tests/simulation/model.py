"""The model of a simulation: a token is a pure hash of the seed and all tokens before it.

Owns the reference, which is computed at once, and the fake device under the real engine. The fake keeps its
own key-value cache, the token that was written at each position, and computes from that alone: where the
bookkeeping above trusts what is not there, the tokens come out wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from outrider_server.core.description import ModelDescription, ShapeAudit, TokenizerFiles
from outrider_server.core.types import Draw, FinishReason
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Layout, Row, RowResult
from outrider_server.engine.lengths import LengthRule
from outrider_server.engine.limits import StepLimits
from outrider_server.engine.parking import Layers, ParkedSessions
from outrider_server.engine.slots import SlotTable
from outrider_server.engine.step_costs import StepCosts, timed_sizes
from outrider_server.session.text.chat import ChatTemplate
from outrider_server.session.text.model import ServedModel
from outrider_server.session.text.tokenizer import Tokenizer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

LETTERS = "abcdefghijklmnopqrstuvwxyz "
END = "</s>"
END_TOKEN = 0
VOCABULARY = 1 + len(LETTERS)
WIDTH = 8
PREFILL_WIDTH = 16
CONTEXT = 256
BORDER = 48
"""A context that outgrows it is read anew, as the longest contexts of some real models."""
TOKEN_SECONDS = 1e-5
STALE = 255
"""What the cache holds where nothing was written; no token."""


def next_token(seed: int, tokens: bytes | bytearray) -> int:
    """The target: the token that follows these."""
    return _draw(seed.to_bytes(8, "little"), tokens) % VOCABULARY


def guess(seed: int, tokens: bytes | bytearray, agreement: float) -> int:
    """The draft: the target's token with a chance of `agreement`, else the one after it."""
    agrees = _draw(b"draft", tokens) % 1000 < 1000 * agreement
    return (next_token(seed, tokens) + (0 if agrees else 1)) % VOCABULARY


def _draw(key: bytes, tokens: bytes | bytearray) -> int:
    return int.from_bytes(hashlib.blake2b(tokens, digest_size=6, key=key).digest(), "little")


def reference(
    seed: int, context: Sequence[int], stop: Sequence[str], most: int
) -> tuple[tuple[int, ...], FinishReason]:
    """What the target alone writes after `context`, and why it ends there."""
    tokens, text = bytearray(context), ""
    most = min(most, CONTEXT - len(context))
    for _ in range(most):
        token = next_token(seed, tokens)
        tokens.append(token)
        if token == END_TOKEN:
            return tuple(tokens[len(context) :]), FinishReason.END_TOKEN
        text += LETTERS[token - 1]
        if any(text.endswith(end) for end in stop):
            return tuple(tokens[len(context) :]), FinishReason.STOP_STRING
    return tuple(tokens[len(context) :]), FinishReason.LENGTH


def served_model(template: str) -> ServedModel:
    """What session services learn of the target: a tokenizer of one letter a token, and a chat template."""
    words = {END: END_TOKEN} | {letter: 1 + index for index, letter in enumerate(LETTERS)}
    raw = RawTokenizer(models.WordLevel(words, unk_token=END))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    state = json.loads(raw.to_str())
    state["added_tokens"] = [
        {"id": END_TOKEN, "content": END, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    ]
    tokenizer = Tokenizer(json.dumps(state), end_token=END)
    return ServedModel(describe(), tokenizer, ChatTemplate(template, "", END))


def describe() -> ModelDescription:
    """The model as every target tells of it."""
    return ModelDescription(
        name="hash",
        architecture="hash",
        model_fingerprint="model",
        vocabulary_fingerprint="letters",
        vocabulary_size=VOCABULARY,
        end_token_ids=(END_TOKEN,),
        max_context_tokens=CONTEXT,
        width=WIDTH,
        slots=1,
        parameter_count=0,
        dtype="uint8",
        device="cpu",
        quantization="",
        compiled=False,
        compile_note="",
        kernel_note="",
        attention="",
        attention_note="",
        shape_audit=ShapeAudit(False, (1,), ()),
        tokenizer_size=VOCABULARY,
        output_rows=VOCABULARY,
        generation_defaults={},
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One engine of the simulation. `agreement` None makes it the target."""

    slots: int
    park_bytes: int
    packed: bool
    agreement: float | None = None


class HashRunner:
    """Stands where `StepRunner` stands: reads rows into its cache and draws from what it holds."""

    def __init__(self, settings: ModelSettings, spend: Callable[[float], None]) -> None:
        self._spend = spend
        self.layout = Layout(WIDTH, settings.packed, settings.slots)
        self.draws = self
        self.cache = self
        self._agreement = settings.agreement
        self.length_rule = LengthRule(BORDER, reread=True)
        self._kv = [bytearray([STALE]) * CONTEXT for _ in range(settings.slots)]
        self._readings = [bytearray(CONTEXT) for _ in range(settings.slots)]
        self._seeds = [0] * settings.slots

    def write(self, slot: int, draw: Draw) -> None:
        """Sets how a slot draws."""
        self._seeds[slot] = draw.seed

    def wipe(self, slot: int) -> None:
        """Forgets a slot."""
        self._kv[slot] = bytearray([STALE]) * CONTEXT

    def prefill(self, row: Row) -> None:
        """Reads tokens."""
        place = slice(row.start_position, row.start_position + len(row.tokens))
        self._kv[row.slot][place] = row.tokens
        self._readings[row.slot][place] = bytes([row.reading]) * len(row.tokens)

    def decide(self, rows: Sequence[Row], bucket: int) -> list[RowResult]:
        """Reads tokens and draws after each of them."""
        packed = self.layout.tokens([len(row.tokens) for row in rows])
        self._spend(TOKEN_SECONDS * (packed if self.layout.packed else bucket * WIDTH))
        return [self._decide(row) for row in rows]

    def _decide(self, row: Row) -> RowResult:
        self.prefill(row)
        seed = self._seeds[row.slot]
        heads = (self._head(row, count) for count in range(len(row.tokens)))
        if self._agreement is None:
            return RowResult(tuple(next_token(seed, head) for head in heads))
        return RowResult(tuple(guess(seed, head, self._agreement) for head in heads))

    def _head(self, row: Row, count: int) -> bytearray:
        """What a token is drawn from: nothing of use where some of it was read at another length."""
        end = row.start_position + count + 1
        reading = self.length_rule.reading(end, 0)
        if self._readings[row.slot][:end].count(reading) < end:
            return bytearray([STALE]) * end
        return self._kv[row.slot][:end]

    def read_slot(self, slot: int, length: int) -> Any:
        """The cache of a slot as one layer, tokens and what they were read at: [1, T, 1] uint8 each."""
        held = (self._kv[slot][:length], self._readings[slot][:length])
        keys, values = (
            torch.tensor(list(part), dtype=torch.uint8).reshape(1, -1, 1) for part in held
        )
        return Layers(((keys, values),))

    def write_slot(self, slot: int, tokens: Sequence[int], layers: Any) -> None:
        """Puts back what `read_slot` gave."""
        for held, part in zip((self._kv, self._readings), layers.pairs[0], strict=True):
            held[slot][: part.numel()] = part.flatten().tolist()


class SimulatedEngine(Engine):
    """The real engine over the fake runner. `compile_mode` and what else concerns torch is not looked at."""

    def __post_init__(self) -> None:
        settings, spend = cast(Any, self.loaded.model)
        self.runner = cast(Any, HashRunner(settings, spend))
        self.table = SlotTable(self.limits.slots, self._park_slot)
        self.parked = ParkedSessions(self.park_bytes)
        self.audit = ShapeAudit(False, self.limits.row_buckets, ())
        sizes = timed_sizes(self.runner.layout, self.limits.row_buckets)
        self._ended = self.clock()
        self._costs = StepCosts([(tokens, TOKEN_SECONDS * tokens * 1000) for tokens in sizes])

    def describe(self) -> ModelDescription:
        """What a service asks for."""
        return describe()

    @property
    def arithmetic(self) -> str:
        """The same for all."""
        return "hash"


def build_engine(
    settings: ModelSettings, spend: Callable[[float], None], clock: Callable[[], float]
) -> Engine:
    """An engine that holds nothing. `spend` is told how long each step computes."""
    loaded = SimpleNamespace(
        model=(settings, spend),
        vocabulary_size=VOCABULARY,
        model_fingerprint="model",
        vocabulary_fingerprint="letters",
        tokenizer=TokenizerFiles(b"{}", "", "", ""),
    )
    buckets = (1, 2) if settings.slots > 1 else (1,)
    limits = StepLimits(settings.slots, CONTEXT, WIDTH, PREFILL_WIDTH, buckets)
    return SimulatedEngine(cast(Any, loaded), limits, park_bytes=settings.park_bytes, clock=clock)
