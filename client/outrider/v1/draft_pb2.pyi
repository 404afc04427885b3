from outrider.v1 import target_pb2 as _target_pb2
from outrider.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DraftRequest(_message.Message):
    __slots__ = ("open", "commit")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    open: DraftOpen
    commit: DraftCommit
    def __init__(self, open: _Optional[_Union[DraftOpen, _Mapping]] = ..., commit: _Optional[_Union[DraftCommit, _Mapping]] = ...) -> None: ...

class DraftOpen(_message.Message):
    __slots__ = ("session_id", "epoch", "committed_length", "sampling", "seed", "generated_from", "lead", "vocabulary_fingerprint", "burst", "vocabulary_size", "withheld_token_ids", "min_new_tokens", "kept_length")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GENERATED_FROM_FIELD_NUMBER: _ClassVar[int]
    LEAD_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    WITHHELD_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MIN_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    committed_length: int
    sampling: _types_pb2.SamplingParams
    seed: int
    generated_from: int
    lead: int
    vocabulary_fingerprint: str
    burst: int
    vocabulary_size: int
    withheld_token_ids: _containers.RepeatedScalarFieldContainer[int]
    min_new_tokens: int
    kept_length: int
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., committed_length: _Optional[int] = ..., sampling: _Optional[_Union[_types_pb2.SamplingParams, _Mapping]] = ..., seed: _Optional[int] = ..., generated_from: _Optional[int] = ..., lead: _Optional[int] = ..., vocabulary_fingerprint: _Optional[str] = ..., burst: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., withheld_token_ids: _Optional[_Iterable[int]] = ..., min_new_tokens: _Optional[int] = ..., kept_length: _Optional[int] = ...) -> None: ...

class DraftCommit(_message.Message):
    __slots__ = ("start_position", "tokens", "lead", "burst")
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LEAD_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    start_position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    lead: int
    burst: int
    def __init__(self, start_position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., lead: _Optional[int] = ..., burst: _Optional[int] = ...) -> None: ...

class DraftResponse(_message.Message):
    __slots__ = ("opened", "proposal")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    opened: DraftOpened
    proposal: Proposal
    def __init__(self, opened: _Optional[_Union[DraftOpened, _Mapping]] = ..., proposal: _Optional[_Union[Proposal, _Mapping]] = ...) -> None: ...

class DraftOpened(_message.Message):
    __slots__ = ("length", "digest", "model_fingerprint")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    length: int
    digest: bytes
    model_fingerprint: str
    def __init__(self, length: _Optional[int] = ..., digest: _Optional[bytes] = ..., model_fingerprint: _Optional[str] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("branch", "start_position", "tokens", "draft_us")
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_US_FIELD_NUMBER: _ClassVar[int]
    branch: int
    start_position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    draft_us: int
    def __init__(self, branch: _Optional[int] = ..., start_position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., draft_us: _Optional[int] = ...) -> None: ...
