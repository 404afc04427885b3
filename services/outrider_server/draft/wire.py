"""Proto messages of the draft service to domain types and back."""

from __future__ import annotations

from outrider.v1 import draft_pb2

from ..core.types import Draw
from ..host.draft_turn import DraftTask
from ..host.outbox import Guessed
from ..rpc.wire import sampling_from_proto


def draw_from_open(message: draft_pb2.DraftOpen, vocabulary_size: int) -> Draw:
    """The target's draw on a draft of so many token ids. Raises InvalidRequest."""
    targets_size = message.vocabulary_size or vocabulary_size  # 0 of a caller of before
    return Draw(
        sampling_from_proto(message.sampling),
        message.seed,
        message.generated_from,
        vocabulary_size=targets_size if targets_size < vocabulary_size else None,
        withheld=tuple(token for token in message.withheld_token_ids if token < vocabulary_size),
        min_new_tokens=message.min_new_tokens,
    )


def task_from_open(message: draft_pb2.DraftOpen) -> DraftTask:
    """What is asked of the draft. Raises InvalidRequest."""
    kept = message.kept_length if message.HasField("kept_length") else message.committed_length
    return DraftTask(message.committed_length, kept, message.lead, message.burst or 1)


def pace_from_commit(message: draft_pb2.DraftCommit) -> tuple[int | None, int | None]:
    """(lead, burst) from now on; None where they stay, unchecked."""
    lead = message.lead if message.HasField("lead") else None
    burst = message.burst if message.HasField("burst") else None
    return lead, burst


def guessed_to_proto(guessed: Guessed) -> draft_pb2.Proposal:
    """Guesses."""
    return draft_pb2.Proposal(
        branch=guessed.branch,
        start_position=guessed.proposal.start_position,
        tokens=guessed.proposal.tokens,
        draft_us=round(guessed.seconds * 1e6),
    )
