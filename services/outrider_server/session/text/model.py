"""What the session service knows of the target's model: learnt from the target, no files of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...core.description import ModelDescription, TokenizerFiles
from ...core.errors import InvalidRequest, StartupError
from ...core.types import NEUTRAL, SamplingParams
from .chat import ChatTemplate
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The target's description, with its tokenizer's end token, its tokenizer and its chat template."""

    description: ModelDescription
    tokenizer: Tokenizer
    chat: ChatTemplate
    defaults: SamplingParams = NEUTRAL
    """What a request gets for the parameters that it does not name."""

    @classmethod
    def of(
        cls,
        description: ModelDescription,
        files: TokenizerFiles,
        *,
        defaults_of_model: bool = False,
    ) -> ServedModel:
        """Raises StartupError when the tokenizer, or the defaults that are asked for, cannot be used."""
        try:
            tokenizer = Tokenizer(
                files.tokenizer_json.decode(),
                begin_token=files.begin_token,
                end_token=files.end_token,
                chat_template=files.chat_template + files.tool_chat_template,
                most_tokens=description.max_context_tokens,
            )
        except ValueError as error:
            raise StartupError(f"the target's tokenizer cannot be used: {error}") from error
        chat = ChatTemplate(
            files.chat_template,
            files.begin_token,
            files.end_token,
            pad_token=files.pad_token,
            unknown_token=files.unknown_token,
            tool_source=files.tool_chat_template,
        )
        described = _with_end_token(description, tokenizer.end_token_id)
        defaults = _defaults(description) if defaults_of_model else NEUTRAL
        return cls(described, tokenizer, chat, defaults)

    def first_unknown(self, tokens: Sequence[int]) -> int | None:
        """Index of the first token id that the model lacks; None where it has all."""
        size = self.description.vocabulary_size
        if max(tokens, default=0) < size:
            return None
        return next(index for index, token in enumerate(tokens) if token >= size)


def _defaults(description: ModelDescription) -> SamplingParams:
    try:
        return SamplingParams(**description.generation_defaults)  # type: ignore[arg-type]
    except InvalidRequest as error:
        raise StartupError(
            f"the target's generation_config.json cannot be followed: {error}; correct it there, or leave "
            "--generation-defaults model out"
        ) from error


def _with_end_token(description: ModelDescription, end_token: int | None) -> ModelDescription:
    """With the tokenizer's end token among those that end a turn: a configuration may name another one."""
    ends, size = description.end_token_ids, description.vocabulary_size
    if end_token is None or end_token in ends or end_token >= size:
        return description
    return replace(description, end_token_ids=(*ends, end_token))
