"""Runs all checks of one architecture in one setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from outrider_server.host.engine_host import EngineHost

from .architectures import Architecture
from .checks import (
    PromiseOutcome,
    check_promise,
    greedy_differences,
    library_error,
    logits_error,
    turns_differ,
)
from .subject import Setting, library_model, make_engine

PROMPTS = 3
FLOAT32_BOUND = 1e-4
BFLOAT16_RATIO = 2.0
"""The engine in bfloat16 may be this many times as far from exact logits as the library in bfloat16."""
EXPERTS_RATIO = 4.0
"""The same for mixtures: a rounding sends a token to another expert, and not the same one in both."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found; `bound` is what `error` may be at most."""

    error: float
    bound: float
    greedy_differences: int | None
    """Of PROMPTS; None in bfloat16, where ties are common."""
    promise: PromiseOutcome
    turns_differ: bool
    packed: bool
    compile_note: str
    kernel_note: str

    @property
    def good(self) -> bool:
        """True when nothing is wrong."""
        return (
            self.error <= self.bound
            and not self.greedy_differences
            and not self.promise.differences
            and not self.turns_differ
        )


def bfloat16_ratio(architecture: Architecture) -> float:
    """How many times the library's own error in bfloat16 is let pass."""
    config = architecture.make()
    mixed = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts"))
    return EXPERTS_RATIO if mixed else BFLOAT16_RATIO


async def find_outcome(architecture: Architecture, folder: Path, setting: Setting) -> Outcome:
    """Runs all checks over a model folder. Raises ModelRefused where the engine refuses it."""
    host = await EngineHost.started(lambda: make_engine(folder, setting))
    engine = host.engine
    try:
        library = library_model(architecture, folder, setting.dtype)
        if setting.dtype == "float32":
            exact, bound = library, FLOAT32_BOUND
            differences = await greedy_differences(host, library, PROMPTS)
        else:
            exact, differences = library_model(architecture, folder, setting.dtype).float(), None
            bound = bfloat16_ratio(architecture) * library_error(library, exact)
        return Outcome(
            error=logits_error(engine, exact),
            bound=bound,
            greedy_differences=differences,
            promise=await check_promise(host),
            turns_differ=await turns_differ(host),
            packed=engine.runner.layout.packed,
            compile_note=engine.runner.compile_note,
            kernel_note=engine.runner.kernel_note,
        )
    finally:
        await host.stop()
