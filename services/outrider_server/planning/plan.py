"""Makes a plan of its settings: counts both models, adds up their engines, asks what fits and how fast."""

from __future__ import annotations

from ..core.errors import ModelRefused
from ..engine.model.formats import only_drafts
from ..engine.options import EngineOptions
from .config_file import check_unquantized, read_config
from .config_path import config_path
from .counting import count_model
from .fitting import fit
from .memory import plan_memory, token_bytes
from .settings import PlanSettings
from .shape import engine_shape
from .speed import break_even_ms, roofline
from .types import EnginePlan, Plan
from .weights import weights_by_precision


def make_plan(settings: PlanSettings) -> Plan:
    """The plan of a target and perhaps a draft. Raises StartupError for what cannot be planned."""
    target = _engine_plan(settings.target, settings)
    if target.sizes.target_ids:
        raise ModelRefused(only_drafts(config_path(settings.target.folder).parent))
    draft = None
    if settings.draft is not None:
        draft = _engine_plan(settings.draft, settings)
    beside = None
    if draft is not None and settings.memory_bytes is not None:
        beside = fit(
            target.sizes,
            target.shape,
            settings.memory_bytes,
            rows=settings.target.rows,
            other_bytes=draft.memory.total_bytes,
        )
    return Plan(
        target=target,
        draft=draft,
        memory_bytes=settings.memory_bytes,
        bandwidth=settings.bandwidth,
        agreement=settings.agreement,
        beside=beside,
        break_even_ms=_break_even(target, draft, settings.agreement),
    )


def _engine_plan(options: EngineOptions, settings: PlanSettings) -> EnginePlan:
    file = read_config(options.folder)
    if options.quantization != "none":
        check_unquantized(file)
    sizes = count_model(file, options.device.partition(":")[0])
    shape = engine_shape(sizes, options)
    memory, bandwidth = settings.memory_bytes, settings.bandwidth
    return EnginePlan(
        sizes=sizes,
        shape=shape,
        memory=plan_memory(sizes, shape),
        weights_by_precision=weights_by_precision(sizes, shape.dtype),
        cache_token_bytes=token_bytes(sizes, shape.dtype),
        fit=fit(sizes, shape, memory, rows=options.rows) if memory is not None else None,
        roofline=roofline(sizes, shape, bandwidth) if bandwidth is not None else None,
    )


def _break_even(target: EnginePlan, draft: EnginePlan | None, agreement: float) -> float | None:
    if draft is None or draft.roofline is None or target.roofline is None:
        return None
    return break_even_ms(
        agreement, draft.roofline.step_ms, target.roofline.step_ms, target.shape.width
    )
