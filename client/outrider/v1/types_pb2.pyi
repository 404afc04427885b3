from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SamplingParams(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ...) -> None: ...

class ModelDescription(_message.Message):
    __slots__ = ("name", "architecture", "model_fingerprint", "vocabulary_fingerprint", "vocabulary_size", "end_token_ids", "max_context_tokens", "width", "slots", "parameter_count", "dtype", "device", "compiled", "compile_note", "shape_audit", "kernel_note", "quantization", "attention", "attention_note", "ranks", "tokenizer_size", "output_rows", "generation_defaults", "arithmetic", "known_tokens")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    END_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    COMPILED_FIELD_NUMBER: _ClassVar[int]
    COMPILE_NOTE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_AUDIT_FIELD_NUMBER: _ClassVar[int]
    KERNEL_NOTE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_NOTE_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SIZE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_ROWS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_FIELD_NUMBER: _ClassVar[int]
    KNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    name: str
    architecture: str
    model_fingerprint: str
    vocabulary_fingerprint: str
    vocabulary_size: int
    end_token_ids: _containers.RepeatedScalarFieldContainer[int]
    max_context_tokens: int
    width: int
    slots: int
    parameter_count: int
    dtype: str
    device: str
    compiled: bool
    compile_note: str
    shape_audit: ShapeAudit
    kernel_note: str
    quantization: str
    attention: str
    attention_note: str
    ranks: int
    tokenizer_size: int
    output_rows: int
    generation_defaults: SamplingParams
    arithmetic: str
    known_tokens: int
    def __init__(self, name: _Optional[str] = ..., architecture: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., vocabulary_fingerprint: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., end_token_ids: _Optional[_Iterable[int]] = ..., max_context_tokens: _Optional[int] = ..., width: _Optional[int] = ..., slots: _Optional[int] = ..., parameter_count: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., compiled: _Optional[bool] = ..., compile_note: _Optional[str] = ..., shape_audit: _Optional[_Union[ShapeAudit, _Mapping]] = ..., kernel_note: _Optional[str] = ..., quantization: _Optional[str] = ..., attention: _Optional[str] = ..., attention_note: _Optional[str] = ..., ranks: _Optional[int] = ..., tokenizer_size: _Optional[int] = ..., output_rows: _Optional[int] = ..., generation_defaults: _Optional[_Union[SamplingParams, _Mapping]] = ..., arithmetic: _Optional[str] = ..., known_tokens: _Optional[int] = ...) -> None: ...

class ShapeAudit(_message.Message):
    __slots__ = ("all_interchangeable", "reproducible", "shapes", "row_buckets")
    ALL_INTERCHANGEABLE_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    ROW_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    all_interchangeable: bool
    reproducible: bool
    shapes: _containers.RepeatedCompositeFieldContainer[AuditedShape]
    row_buckets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, all_interchangeable: _Optional[bool] = ..., reproducible: _Optional[bool] = ..., shapes: _Optional[_Iterable[_Union[AuditedShape, _Mapping]]] = ..., row_buckets: _Optional[_Iterable[int]] = ...) -> None: ...

class AuditedShape(_message.Message):
    __slots__ = ("rows", "width", "variation", "identical", "max_difference", "in_use")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    VARIATION_FIELD_NUMBER: _ClassVar[int]
    IDENTICAL_FIELD_NUMBER: _ClassVar[int]
    MAX_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    width: int
    variation: str
    identical: bool
    max_difference: float
    in_use: bool
    def __init__(self, rows: _Optional[int] = ..., width: _Optional[int] = ..., variation: _Optional[str] = ..., identical: _Optional[bool] = ..., max_difference: _Optional[float] = ..., in_use: _Optional[bool] = ...) -> None: ...

class TokenizerFiles(_message.Message):
    __slots__ = ("tokenizer_json", "chat_template", "begin_token", "end_token", "pad_token", "unknown_token", "tool_chat_template")
    TOKENIZER_JSON_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    BEGIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    END_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PAD_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOOL_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    tokenizer_json: bytes
    chat_template: str
    begin_token: str
    end_token: str
    pad_token: str
    unknown_token: str
    tool_chat_template: str
    def __init__(self, tokenizer_json: _Optional[bytes] = ..., chat_template: _Optional[str] = ..., begin_token: _Optional[str] = ..., end_token: _Optional[str] = ..., pad_token: _Optional[str] = ..., unknown_token: _Optional[str] = ..., tool_chat_template: _Optional[str] = ...) -> None: ...
