"""The target of a run: its engine, and what its texts are made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..core.errors import StartupError
from ..core.progress import Progress
from ..engine.engine import Engine
from ..engine.lengths import longest_context
from ..engine.model.hub import local_folder
from ..engine.options import EngineOptions
from ..engine.starting import Start
from ..host.building import engine_builder
from ..planning.config_file import read_config
from ..session.text.model import ServedModel
from .dialogue import ReplyRules
from .settings import MOST_CONTEXT_TOKENS, SMALLEST_REPLY_TOKENS, DistillSettings


def build_target(options: EngineOptions, start: Start) -> Engine:
    """The engine. Raises StartupError."""
    build: Callable[[], Engine] = engine_builder(options, start=start)
    return build()


def reply_rules(engine: Engine, settings: DistillSettings) -> ReplyRules:
    """Raises StartupError for a tokenizer that cannot be used, or a context without room."""
    files = engine.loaded.tokenizer
    rules = ReplyRules(
        model=ServedModel.of(engine.describe(), files),
        context_tokens=engine.limits.max_context_tokens,
        reply_tokens=settings.reply_tokens,
        seed=settings.seed,
        is_chat=bool(files.chat_template),
    )
    if rules.context_tokens <= SMALLEST_REPLY_TOKENS:
        raise StartupError(rules.no_room)
    return rules


def with_context(settings: DistillSettings, tell: Progress) -> DistillSettings:
    """The settings with a context: where none is asked for the model's, though no longer than learning needs.

    Raises StartupError where they ask for a vocabulary or layers that the target does not have.
    """
    options = settings.engine
    config = read_config(local_folder(options.folder, tell)).config
    text = config.get_text_config()
    rows, layers = int(text.vocab_size), int(text.num_hidden_layers)
    if settings.vocabulary is not None and settings.vocabulary > rows:
        raise StartupError(
            f"a vocabulary of {settings.vocabulary} rows is larger than the target's of {rows}"
        )
    for layer in settings.layers or ():
        if layer >= layers:
            raise StartupError(f"the target has layers 0 to {layers - 1}, and no layer {layer}")
    if options.max_context_tokens:
        return settings
    context = min(longest_context(config) or MOST_CONTEXT_TOKENS, MOST_CONTEXT_TOKENS)
    return replace(settings, engine=replace(options, max_context_tokens=context))
