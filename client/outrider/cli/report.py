"""What commands print beside tokens: values as JSON, sessions and models as lines for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from outrider.types import Description, Event, ModelDescription, SessionInfo, Started, Summary

NEUTRAL = {"temperature": 1, "top_p": 1, "repetition_penalty": 1}
"""Values that change nothing; 0 for every other parameter."""


def json_line(value: Event | SessionInfo | Description, **extra: object) -> str:
    """A value as one line of JSON; `extra` comes first."""
    return _dump({**extra, **asdict(value)})


def started_json(started: Started, session_id: str) -> str:
    """The first line of a turn."""
    return _dump({"type": "started", "session_id": session_id, **asdict(started)})


def summary_json(summary: Summary) -> str:
    """The last line of a turn, the derived figures included."""
    derived = {"tokens_per_round": summary.tokens_per_round, "agreement": summary.agreement}
    return _dump({"type": "summary", **asdict(summary), **derived})


def session_row(info: SessionInfo) -> str:
    """A session in one line of a list."""
    state = "running" if info.turn_running else "idle"
    return (
        f"{info.id}  {info.position:>8} tokens  {info.turn_count:>5} turns  {state:<7}  "
        f"{_time(info.update_time)}"
    )


def session_lines(info: SessionInfo) -> list[str]:
    """A session in full."""
    return [
        f"id        {info.id}",
        f"position  {info.position}",
        f"turns     {info.turn_count}{' (one running)' if info.turn_running else ''}",
        f"model     {info.model_fingerprint}",
        f"created   {_time(info.create_time)}",
        f"updated   {_time(info.update_time)}",
        f"expires   {_time(info.expire_time) if info.expire_time else 'never'}",
        f"text      {(info.text or '')!r}",
    ]


def description_lines(description: Description) -> list[str]:
    """What a service consists of."""
    lines = [
        f"version  {description.version}",
        f"window   {description.max_window}",
        f"defaults {_defaults(description)}",
        *_model_lines("target", description.target),
    ]
    if description.target_note:
        lines.append(f"target   changed: {description.target_note}")
    if description.draft is not None:
        lines += _model_lines("draft", description.draft)
    if description.draft is None or description.draft_note:
        lines.append(f"draft    not used: {description.draft_note or 'there is none'}")
    return lines


def _model_lines(role: str, model: ModelDescription) -> list[str]:
    audit = model.shape_audit
    agreed = sum(shape.identical for shape in audit.shapes)
    verdict = "interchangeable" if audit.all_interchangeable else "not all interchangeable"
    kernels = f"torch ({model.kernel_note})" if model.kernel_note else "own"
    device = f"{model.ranks} x {model.device}" if model.ranks > 1 else model.device
    weights = f", weights {model.quantization}" if model.quantization else ""
    return [
        f"{role:<8} {model.name} ({model.architecture}, {model.parameter_count:,} parameters)",
        f"         {model.dtype}{weights} on {device}, {_way(model)}, kernels: {kernels}",
        f"         attention {model.attention} ({model.attention_note})",
        f"         width {model.width}, {model.slots} slots of {model.max_context_tokens} tokens, "
        f"{_token_ids(model)}",
        f"         shapes: {agreed} of {len(audit.shapes)} identical, {verdict}"
        f"{', pinned to one' if audit.reproducible else ''}",
        f"         model {model.model_fingerprint}, vocabulary {model.vocabulary_fingerprint}",
    ]


def _way(model: ModelDescription) -> str:
    """How steps run; those on the engine's own kernels are recorded."""
    if not model.compiled:
        return f"eager ({model.compile_note})"
    return "compiled" if model.kernel_note else "recorded"


def _defaults(description: Description) -> str:
    """What a request gets that names nothing, and what the model says of it where that is something else."""
    used, named = description.sampling_defaults, description.target.generation_defaults
    changed = {name: value for name, value in used.items() if value != NEUTRAL.get(name, 0)}
    line = _parameters(changed) or "none: the model's distribution as it is"
    if all(used.get(name) == value for name, value in named.items()):
        return line
    return f"{line} (its generation_config.json, not followed: {_parameters(named)})"


def _parameters(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _token_ids(model: ModelDescription) -> str:
    ids = f"{model.vocabulary_size:,} token ids"
    if model.known_tokens:
        return f"{ids}, of which it knows {model.known_tokens:,}"
    if model.tokenizer_size == model.output_rows:
        return ids
    return f"{ids} (the tokenizer has {model.tokenizer_size:,}, the model {model.output_rows:,})"


def _dump(fields: dict[str, object]) -> str:
    """Where output has another encoding, every character that might be missing there is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(fields, ensure_ascii=not encoding.startswith("utf"), default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no JSON form")


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
