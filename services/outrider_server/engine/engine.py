"""The engine of one model: slots, draws and steps behind one object that one thread owns.

Opens sessions, checks what is asked of them before anything is computed, and runs batches of rows. Target
and draft service are both built on it; it knows of neither.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..core.description import ModelDescription, ShapeAudit
from ..core.errors import InvalidRequest, ModelMismatch, OutriderError, VocabularyMismatch
from ..core.surroundings import Clock
from ..core.types import Draw, tokens_digest
from .attention.attention_names import AUTO
from .layout import Row, RowResult
from .limits import StepLimits
from .model.facts import ModelFacts
from .parking import ParkedSession, ParkedSessions
from .ranks.ranks import Group
from .readying import make_ready, records_of
from .scheduling.batching import Demand, plan_rows
from .slots import Slot, SlotTable
from .starting import Start
from .step import StepRunner
from .step_costs import StepCosts


@dataclass(slots=True)
class EngineCounters:
    """What an engine has done since its start."""

    verify_steps: int = 0
    verify_rows: int = 0
    prefill_steps: int = 0
    prefilled_tokens: int = 0
    device_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class OpenedSlot:
    """A slot opened for a turn, and what its KV holds of the session's committed tokens."""

    slot: Slot
    opening: int
    length: int
    digest: bytes
    opened_seconds: float
    """When, by the engine's clock."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The rows' results and the time that their step took."""

    rows: list[RowResult]
    seconds: float


@dataclass(slots=True)
class Engine:
    """A loaded model over its slot cache. Not thread-safe: one thread owns it."""

    loaded: ModelFacts
    limits: StepLimits
    compile_mode: str = "auto"
    reproducible: bool = False
    attention: str = AUTO
    """One of options.ATTENTIONS."""
    park_bytes: int = 0
    """Host memory for sessions that gave up their slot."""
    group: Group | None = None
    """The ranks that share the model, where there are several; this is rank 0."""
    start: Start = field(default_factory=Start)
    clock: Clock = time.monotonic
    counters: EngineCounters = field(default_factory=EngineCounters)
    runner: StepRunner = field(init=False)
    table: SlotTable = field(init=False)
    parked: ParkedSessions = field(init=False)
    audit: ShapeAudit = field(init=False)
    _costs: StepCosts = field(init=False)
    _ended: float = field(init=False)
    """When the last step did."""

    def __post_init__(self) -> None:
        records = records_of(
            self.start.records, self.loaded, self.limits, self.compile_mode, self.attention
        )
        start = replace(self.start, records=records)
        self.runner = StepRunner(
            self.loaded, self.limits, self.compile_mode, self.attention, self.group, start
        )
        self.table = SlotTable(self.limits.slots, self._park_slot)
        self.parked = ParkedSessions(self.park_bytes)
        ready = make_ready(self.runner, self.reproducible, start, self.clock)
        self.audit, self._costs = ready.audit, ready.costs
        self._ended = self.clock()

    def open(self, session_id: str, epoch: int, committed_length: int, draw: Draw) -> OpenedSlot:
        """Opens a session for one turn. KV beyond `committed_length` is dropped.

        Raises InvalidRequest, or what `SlotTable.open` raises.
        """
        if not 1 <= len(session_id) <= 64:
            raise InvalidRequest("session_id", "session_id must have 1 to 64 characters")
        if epoch < 1:
            raise InvalidRequest("epoch", "epoch must be at least 1")
        if not 0 <= committed_length <= self.limits.max_context_tokens:
            raise InvalidRequest(
                "committed_length",
                f"committed_length must be 0 to {self.limits.max_context_tokens}",
            )
        draw.check_vocabulary(self.loaded.vocabulary_size)
        parked = self.parked.take(session_id, epoch)  # whoever is evicted for it gets its room
        try:
            slot = self.table.open(session_id, epoch)
        except OutriderError:
            if parked is not None:
                self.parked.give_back(session_id, parked)
            raise
        if parked is not None:
            self._restore(parked, slot)
        del slot.tokens[committed_length:]
        slot.generated_from = draw.generated_from
        self.runner.draws.write(slot.index, draw)
        digest = tokens_digest(slot.tokens)
        return OpenedSlot(slot, slot.opening, len(slot.tokens), digest, self.clock())

    def release(self, session_id: str, epoch: int) -> None:
        """Forgets a session, in its slot or parked. Raises StaleEpoch, or TurnRunning while it is open."""
        self.parked.get(session_id, epoch)
        self.table.release(session_id, epoch)
        self.parked.forget(session_id)

    def fork(self, session_id: str, fork_session_id: str, length: int, epoch: int) -> int:
        """Parks a copy of an idle session's first `length` tokens as another session.

        Returns how many tokens the copy has: fewer where fewer are held, 0 where nothing is held or the copy
        does not fit. Raises InvalidRequest, StaleEpoch, or TurnRunning while the session is open.
        """
        if length < 0 or fork_session_id == session_id or self.table.holds(fork_session_id):
            raise InvalidRequest(
                "fork_session_id", "fork needs a length of at least 0 and a new session id"
            )
        slot = self.table.find_idle(session_id, epoch)
        if slot is not None:
            held = min(length, len(slot.tokens))
            layers = self.runner.read_slot(slot.index, held)
            copy = ParkedSession(1, tuple(slot.tokens[:held]), layers, slot.reading)
        elif (parked := self.parked.get(session_id, epoch)) is not None:
            copy = parked.up_to(length, 1)
        else:
            return 0
        return len(copy.tokens) if self.parked.put(fork_session_id, copy) else 0

    def _park_slot(self, slot: Slot) -> None:
        if not slot.tokens:
            return
        if not self.park_bytes:
            self.parked.dropped += 1  # without a copy that would not be kept
            return
        layers = self.runner.read_slot(slot.index, len(slot.tokens))
        parked = ParkedSession(slot.epoch, tuple(slot.tokens), layers, slot.reading)
        self.parked.put(slot.session_id, parked)

    def _restore(self, parked: ParkedSession, slot: Slot) -> None:
        self.runner.write_slot(slot.index, parked.tokens, parked.layers)
        slot.write(0, parked.tokens)
        slot.reading = parked.reading
        self.parked.restored += 1

    def describe(self) -> ModelDescription:
        """The model as this engine holds it."""
        loaded, runner, known = self.loaded, self.runner, self.loaded.known_tokens
        return ModelDescription(
            name=loaded.name,
            architecture=loaded.architecture,
            model_fingerprint=loaded.model_fingerprint,
            vocabulary_fingerprint=loaded.vocabulary_fingerprint,
            vocabulary_size=loaded.vocabulary.size,
            tokenizer_size=loaded.vocabulary.tokenizer_size,
            output_rows=loaded.vocabulary.output_rows,
            known_tokens=known.count if known else 0,
            generation_defaults=loaded.generation_defaults,
            end_token_ids=loaded.end_token_ids,
            max_context_tokens=self.limits.max_context_tokens,
            width=self.limits.width,
            slots=self.limits.slots,
            parameter_count=loaded.parameter_count,
            dtype=str(runner.dtype).removeprefix("torch."),
            device=runner.device.type,
            quantization=loaded.quantization,
            compiled=runner.compiled,
            compile_note=runner.compile_note,
            kernel_note=runner.kernel_note,
            attention=runner.attention.kernel,
            attention_note=runner.attention.note,
            shape_audit=self.audit,
            ranks=loaded.ranks,
            arithmetic=self.arithmetic,
        )

    @property
    def arithmetic(self) -> str:
        """How logits are computed: where it is another, the same weights may decide other tokens."""
        runner = self.runner
        dtype = str(runner.dtype).removeprefix("torch.")
        ranks = f"ranks={self.loaded.ranks}"
        words = (runner.device.type, dtype, runner.attention.kernel, _way(runner), ranks)
        return " ".join((*words, self.audit.logits_digest))

    def check_model(self, model_fingerprint: str, arithmetic: str) -> None:
        """Raises ModelMismatch for a session of another model, or a turn of another arithmetic; empty is not
        compared."""
        if model_fingerprint not in ("", self.loaded.model_fingerprint):
            raise ModelMismatch("the target serves another model than the session's")
        if arithmetic not in ("", self.arithmetic):
            raise ModelMismatch("the target computes otherwise than where the turn was begun")

    def check_vocabulary(self, vocabulary_fingerprint: str) -> None:
        """Raises VocabularyMismatch unless the caller's token ids are this model's."""
        if vocabulary_fingerprint != self.loaded.vocabulary_fingerprint:
            raise VocabularyMismatch(
                "the draft's vocabulary is not the target's; use another draft"
            )

    def check_tokens(self, start_position: int, tokens: Sequence[int]) -> None:
        """Raises InvalidRequest unless the tokens fit the context and the vocabulary."""
        self.check_end(start_position, len(tokens))
        size = self.loaded.vocabulary_size
        for token in tokens:
            if not 0 <= token < size:
                raise InvalidRequest(
                    "tokens", f"token id {token} is outside the vocabulary of 0 to {size - 1}"
                )

    def check_end(self, start_position: int, count: int) -> None:
        """Raises InvalidRequest unless the context holds so many tokens from a position on."""
        end, limit = start_position + count, self.limits.max_context_tokens
        if end > limit:
            raise InvalidRequest(
                "start_position", f"the tokens end at position {end}; the context holds {limit}"
            )

    def plan_rows(self, demands: Sequence[Demand]) -> list[int]:
        """How many tokens each row of the next step keeps; see `scheduling/batching.py`."""
        return plan_rows(demands, self.runner.layout, self._costs.step_ms())

    def turn_to(self, slot: Slot, length: int) -> bool:
        """Makes the slot ready for a context of `length` tokens.

        Where that is read at another length than what it holds, it is emptied and the answer is True: all is
        to be read again.
        """
        reading = self.runner.length_rule.reading(length, slot.generated_from)
        if reading == slot.reading:
            return False
        slot.reading = reading
        slot.tokens.clear()
        return True

    def reach(self, length: int) -> int:
        """The longest context that may share a step with one of `length` tokens."""
        return self.runner.length_rule.reach(length)

    def wipe(self, slot: Slot) -> None:
        """Drops what a slot holds, after its model gave no number."""
        slot.tokens.clear()
        self.runner.wipe(slot.index)

    def prefill(self, slot: Slot, start_position: int, tokens: tuple[int, ...]) -> float:
        """Reads at most `prefill_width` tokens into a slot; returns the seconds that it took."""
        started = self.clock()
        del slot.tokens[start_position:]  # a step that fails may have written over their KV
        self.runner.prefill(Row(slot.index, start_position, tokens, slot.reading))
        slot.write(start_position, tokens)
        self.counters.prefill_steps += 1
        self.counters.prefilled_tokens += len(tokens)
        self._ended = self.clock()
        seconds = self._ended - started
        self.counters.device_seconds += seconds
        return seconds

    def decide(self, rows: Sequence[tuple[Slot, int, tuple[int, ...]]]) -> BatchResult:
        """One step over (slot, start position, tokens) rows of at most `width` tokens, which must fit."""
        started = self.clock()
        self._costs.waited((started - self._ended) * 1000)
        count = self.runner.layout.tokens([len(tokens) for _, _, tokens in rows])
        width = self.limits.width
        bucket = next(size for size in self.audit.row_buckets if size * width >= count)
        for slot, start, _ in rows:
            del slot.tokens[start:]
        results = self.runner.decide(
            [Row(slot.index, start, tokens, slot.reading) for slot, start, tokens in rows], bucket
        )
        for slot, start, tokens in rows:
            slot.write(start, tokens)
        self._ended = self.clock()
        seconds = self._ended - started
        self._costs.observe(count if self.runner.layout.packed else bucket * width, seconds * 1000)
        self.counters.verify_steps += 1
        self.counters.verify_rows += len(rows)
        self.counters.device_seconds += seconds
        return BatchResult(results, seconds)


def _way(runner: StepRunner) -> str:
    """How steps run, in a word."""
    if runner.layout.packed:
        return "recorded"
    return "compiled" if runner.compiled else "eager"
