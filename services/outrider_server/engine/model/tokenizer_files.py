"""A model folder's tokenizer: `tokenizer.json`, and what the files beside it say of its tokens.

They are read as transformers reads them, but for the defaults of its classes: what a text becomes
stands in the folder, not in the library's version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ...core.description import TokenizerFiles
from ...core.errors import ModelRefused
from .chat_templates import DEFAULT, WITH_TOOLS, read_chat_templates
from .checkpoint import read_json
from .formats import CONFIG, DRAFT_VOCABULARY

SETTINGS = "tokenizer_config.json"
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
MORE = ("additional_special_tokens", "extra_special_tokens")
OPTIONS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """The tokenizer and the chat template. Raises ModelRefused where there is no tokenizer."""
    config = read_json(folder / SETTINGS)
    path = folder / "tokenizer.json"
    if path.is_file():
        content = path.read_bytes()
    else:
        from .tokenizer_conversion import convert_tokenizer  # few need the library's tokenizers

        content = convert_tokenizer(folder, config)
    templates = read_chat_templates(folder, config)
    settings = _settings(folder, config, content)
    begin, end, pad, unknown = (_text(settings.get(role)) for role in ROLES)
    return TokenizerFiles(
        tokenizer_json=_completed(folder, settings, content),
        chat_template=templates.get(DEFAULT, ""),
        tool_chat_template=templates.get(WITH_TOOLS, ""),
        begin_token=begin,
        end_token=end,
        pad_token=pad,
        unknown_token=unknown,
    )


def _settings(folder: Path, config: dict[str, Any], content: bytes) -> dict[str, Any]:
    """What the files say of the tokenizer; where two differ, the one that the library believes.

    Where no file names the tokens that begin and end a text, the model's configuration has their ids, unless
    these are a draft's own.
    """
    named = read_json(folder / "special_tokens_map.json")
    if config or named:
        return named | config if "added_tokens_decoder" in config else config | named
    ids = read_json(folder / CONFIG)
    if DRAFT_VOCABULARY in ids:
        return {}
    tokenizer = _tokenizer(folder, content)
    wanted = {role: ids.get(f"{role}_id") for role in ROLES}
    return {
        role: tokenizer.id_to_token(token)
        for role, token in wanted.items()
        if isinstance(token, int) and token >= 0
    }


def _completed(folder: Path, settings: dict[str, Any], content: bytes) -> bytes:
    """The tokenizer's file, with the added tokens that stand beside it only.

    Raises ModelRefused where it cannot give one the id that it has there.
    """
    known = {
        token.content for token in _tokenizer(folder, content).get_added_tokens_decoder().values()
    }
    beside: dict[str, tuple[AddedToken, int | None]] = {}
    for token, identifier in _added_beside(folder, settings):
        if token.content not in known:
            beside.setdefault(token.content, (token, identifier))  # the first has the id
    if not beside:
        return content
    tokenizer = _tokenizer(folder, content)
    for token, identifier in beside.values():
        if identifier is None and tokenizer.token_to_id(token.content) is None:
            continue  # no file says which row of the model it would be
        tokenizer.add_tokens([token])
        given = tokenizer.token_to_id(token.content)
        if identifier not in (None, given):
            raise ModelRefused(
                f"model folder {folder} gives the token {token.content!r} the id {identifier}, and its "
                f"tokenizer.json can give it {given} only; copy the tokenizer's files anew"
            )
    return tokenizer.to_str().encode()


def _added_beside(
    folder: Path, settings: dict[str, Any]
) -> Iterator[tuple[AddedToken, int | None]]:
    """Added tokens that the files beside the tokenizer's own name, by id, then those without one."""
    named = {_text(settings.get(role)) for role in ROLES}
    for key in MORE:
        more = settings.get(key) or ()
        named |= {_text(entry) for entry in (more.values() if isinstance(more, dict) else more)}
    decoder = settings.get("added_tokens_decoder") or {}
    for identifier in sorted(filter(str.isdecimal, decoder), key=int):
        if text := _text(entry := decoder[identifier]):
            options = {name: bool(entry[name]) for name in OPTIONS if name in entry}
            yield AddedToken(text, **options), int(identifier)
    for text, identifier in read_json(folder / "added_tokens.json").items():
        is_special = text in named
        yield AddedToken(text, special=is_special, normalized=not is_special), identifier
    for text in sorted(named - {""}):
        yield AddedToken(text, special=True, normalized=False), None


def _tokenizer(folder: Path, content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
        raise ModelRefused(
            f"model folder {folder} has a tokenizer.json that cannot be read; copy it anew"
        ) from error


def _text(entry: object) -> str:
    """A token of a configuration, which may be plain text or an object."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else ""
