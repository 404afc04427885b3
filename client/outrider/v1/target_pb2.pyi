from google.rpc import status_pb2 as _status_pb2
from outrider.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VerifyRequest(_message.Message):
    __slots__ = ("open", "step")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    open: VerifyOpen
    step: VerifyStep
    def __init__(self, open: _Optional[_Union[VerifyOpen, _Mapping]] = ..., step: _Optional[_Union[VerifyStep, _Mapping]] = ...) -> None: ...

class VerifyTurnsRequest(_message.Message):
    __slots__ = ("turns",)
    TURNS_FIELD_NUMBER: _ClassVar[int]
    turns: _containers.RepeatedCompositeFieldContainer[TurnLineRequest]
    def __init__(self, turns: _Optional[_Iterable[_Union[TurnLineRequest, _Mapping]]] = ...) -> None: ...

class TurnLineRequest(_message.Message):
    __slots__ = ("turn", "request", "end", "trace")
    class TraceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TURN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    turn: int
    request: VerifyRequest
    end: TurnLineEnd
    trace: _containers.ScalarMap[str, str]
    def __init__(self, turn: _Optional[int] = ..., request: _Optional[_Union[VerifyRequest, _Mapping]] = ..., end: _Optional[_Union[TurnLineEnd, _Mapping]] = ..., trace: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TurnLineEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyTurnsResponse(_message.Message):
    __slots__ = ("turns",)
    TURNS_FIELD_NUMBER: _ClassVar[int]
    turns: _containers.RepeatedCompositeFieldContainer[TurnLineResponse]
    def __init__(self, turns: _Optional[_Iterable[_Union[TurnLineResponse, _Mapping]]] = ...) -> None: ...

class TurnLineResponse(_message.Message):
    __slots__ = ("turn", "response", "failure")
    TURN_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    turn: int
    response: VerifyResponse
    failure: _status_pb2.Status
    def __init__(self, turn: _Optional[int] = ..., response: _Optional[_Union[VerifyResponse, _Mapping]] = ..., failure: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class VerifyOpen(_message.Message):
    __slots__ = ("session_id", "epoch", "committed_length", "sampling", "seed", "generated_from", "logprobs", "withheld_token_ids", "min_new_tokens", "model_fingerprint", "arithmetic")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GENERATED_FROM_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    WITHHELD_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MIN_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    committed_length: int
    sampling: _types_pb2.SamplingParams
    seed: int
    generated_from: int
    logprobs: int
    withheld_token_ids: _containers.RepeatedScalarFieldContainer[int]
    min_new_tokens: int
    model_fingerprint: str
    arithmetic: str
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., committed_length: _Optional[int] = ..., sampling: _Optional[_Union[_types_pb2.SamplingParams, _Mapping]] = ..., seed: _Optional[int] = ..., generated_from: _Optional[int] = ..., logprobs: _Optional[int] = ..., withheld_token_ids: _Optional[_Iterable[int]] = ..., min_new_tokens: _Optional[int] = ..., model_fingerprint: _Optional[str] = ..., arithmetic: _Optional[str] = ...) -> None: ...

class VerifyStep(_message.Message):
    __slots__ = ("start_position", "context_tokens", "proposed_tokens", "survival")
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SURVIVAL_FIELD_NUMBER: _ClassVar[int]
    start_position: int
    context_tokens: _containers.RepeatedScalarFieldContainer[int]
    proposed_tokens: _containers.RepeatedScalarFieldContainer[int]
    survival: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, start_position: _Optional[int] = ..., context_tokens: _Optional[_Iterable[int]] = ..., proposed_tokens: _Optional[_Iterable[int]] = ..., survival: _Optional[_Iterable[float]] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("opened", "verdict")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    opened: VerifyOpened
    verdict: Verdict
    def __init__(self, opened: _Optional[_Union[VerifyOpened, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ...) -> None: ...

class VerifyOpened(_message.Message):
    __slots__ = ("length", "digest", "arithmetic")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_FIELD_NUMBER: _ClassVar[int]
    length: int
    digest: bytes
    arithmetic: str
    def __init__(self, length: _Optional[int] = ..., digest: _Optional[bytes] = ..., arithmetic: _Optional[str] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("start_position", "agreed", "tokens", "logprobs", "step_us", "verified", "prefill_us")
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    STEP_US_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    PREFILL_US_FIELD_NUMBER: _ClassVar[int]
    start_position: int
    agreed: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    step_us: int
    verified: int
    prefill_us: int
    def __init__(self, start_position: _Optional[int] = ..., agreed: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ..., step_us: _Optional[int] = ..., verified: _Optional[int] = ..., prefill_us: _Optional[int] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("logprob", "top")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    top: _containers.RepeatedCompositeFieldContainer[TopLogprob]
    def __init__(self, logprob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TopLogprob, _Mapping]]] = ...) -> None: ...

class TopLogprob(_message.Message):
    __slots__ = ("token", "logprob")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token: int
    logprob: float
    def __init__(self, token: _Optional[int] = ..., logprob: _Optional[float] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("with_tokenizer",)
    WITH_TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    with_tokenizer: bool
    def __init__(self, with_tokenizer: _Optional[bool] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("model", "tokenizer")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    model: _types_pb2.ModelDescription
    tokenizer: _types_pb2.TokenizerFiles
    def __init__(self, model: _Optional[_Union[_types_pb2.ModelDescription, _Mapping]] = ..., tokenizer: _Optional[_Union[_types_pb2.TokenizerFiles, _Mapping]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("session_id", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForkRequest(_message.Message):
    __slots__ = ("session_id", "fork_session_id", "length", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FORK_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    fork_session_id: str
    length: int
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., fork_session_id: _Optional[str] = ..., length: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class ForkResponse(_message.Message):
    __slots__ = ("length",)
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    length: int
    def __init__(self, length: _Optional[int] = ...) -> None: ...
