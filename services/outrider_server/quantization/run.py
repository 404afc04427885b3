"""A report from start to end: read, quantize, read again, write."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from ..core.errors import ModelRefused, StartupError
from ..engine.model.formats import described
from ..engine.model.loading import LoadedModel, load_model
from .findings import ORIGINAL, Findings, LayerShape, Row
from .histograms import draw_histogram
from .layers import model_bytes, output_rows, quantized_layers
from .methods import Outcome, Subject, run_method
from .reading import Reading, agreement, observed_outliers, read_windows
from .report import console_table, write_report
from .settings import QuantizeSettings
from .text import WINDOW_TOKENS, cut_windows, read_text

PACKAGES = ("torch", "transformers", "bitsandbytes")


def run_quantize(settings: QuantizeSettings) -> None:
    """Writes the report. Raises StartupError; what can be refused without the weights comes first."""
    prepare_output(settings.output)
    text = read_text(settings)
    device = usable_device(settings.device)
    tell = Console(stderr=True, highlight=False).print
    loaded = load_whole(settings.model, settings.dtype, device)
    layers = quantized_layers(loaded.model)
    target = load_target(settings, loaded, device)
    windows = cut_windows(text, _window_tokens(loaded, target), settings.tokens)
    tell(f"reads {sum(map(len, windows))} tokens with the unquantized model")
    original, outliers = read_original(loaded, layers, windows)
    decided = original if target is None else read_windows(plain_attention(target.model), windows)
    subject = Subject(settings.model, loaded.model, layers, windows, largest_weight(layers))
    rows = [_row(ORIGINAL, model_bytes(loaded.model), original, original, decided)]
    for method in settings.methods:
        tell(f"quantizes with {method}")
        outcome = run_method(method, subject)
        draw_histogram(settings.output / f"{method}.png", method, outcome.comparison)
        rows.append(_method_row(method, outcome, original, decided))
    findings = Findings(
        model=loaded.name,
        target=None if target is None else target.name,
        text=text.source,
        text_tokens=sum(map(len, windows)),
        windows=len(windows),
        positions=original.positions,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        machine=machine_line(loaded.model.device),
        layers={name: _shape(layer, outliers[name]) for name, layer in layers.items()},
        rows=tuple(rows),
    )
    page = write_report(settings.output, findings)
    console = Console(highlight=False)
    console.print(console_table(findings))
    console.print(f"The report is {page}")


def prepare_output(folder: Path) -> None:
    """Makes the folder and writes into it once. Raises StartupError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartupError(f"the output {folder} cannot be written: {error.strerror}") from error


def usable_device(name: str) -> torch.device:
    """Raises StartupError for what this machine lacks."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StartupError(f"device {name} cannot be used on this machine") from error
    return device


def load_whole(folder: Path, dtype: str, device: torch.device) -> LoadedModel:
    """A model that knows all tokens of its text. Raises ModelRefused for others."""
    loaded = load_model(folder, dtype, device)
    if loaded.known_tokens is not None:
        raise ModelRefused(
            f"{described(folder)} has a vocabulary of its own, and a report reads all tokens of a text; "
            "quantize such a draft where it is served, with --quantization"
        )
    return loaded


def load_target(
    settings: QuantizeSettings, loaded: LoadedModel, device: torch.device
) -> LoadedModel | None:
    """The model to draft for. Raises ModelRefused where its vocabulary is another."""
    if settings.target is None:
        return None
    target = load_whole(settings.target, settings.dtype, device)
    if target.vocabulary_fingerprint != loaded.vocabulary_fingerprint:
        raise ModelRefused(
            f"the target {settings.target} has another vocabulary than {settings.model}; "
            "a draft must share it"
        )
    return target


def plain_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Lets a model that was loaded for the slot cache attend as the library has it."""
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    return model


def read_original(
    loaded: LoadedModel, layers: Mapping[str, nn.Module], windows: list[torch.Tensor]
) -> tuple[Reading, dict[str, int]]:
    """The unquantized model over the text, and its outlier columns by layer.

    Raises ModelRefused where its logits are no numbers.
    """
    with observed_outliers(layers) as found:
        reading = read_windows(plain_attention(loaded.model), windows)
    if reading.perplexity is None:
        raise ModelRefused(
            f"{loaded.name} gives logits that are no numbers as {loaded.model.dtype}; "
            "try --dtype float32"
        )
    return reading, {name: int(found[name].sum()) if name in found else 0 for name in layers}


def largest_weight(layers: Mapping[str, nn.Module]) -> float:
    """The largest magnitude; above 0, so that a histogram has a range."""
    return max(max(output_rows(layer).abs().max().item() for layer in layers.values()), 1e-6)


def machine_line(device: torch.device) -> str:
    """What the figures depend on beside the model: kernels, versions, command."""
    kernels = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else str(device)
    versions = ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    return f"{kernels}; {versions}; `{' '.join(['outrider-server', *sys.argv[1:]])}`"


def _window_tokens(*models: LoadedModel | None) -> int:
    longest = [model.max_positions for model in models if model and model.max_positions]
    return min([WINDOW_TOKENS, *longest])


def _row(
    method: str, size_bytes: int, reading: Reading, original: Reading, decided: Reading
) -> Row:
    return Row(
        method=method,
        size_bytes=size_bytes,
        perplexity=reading.perplexity,
        mean_error=0.0,
        agreement=agreement(reading, decided),
        same_as_original=agreement(reading, original)[0.0],
        errors={},
        histogram=None,
    )


def _method_row(method: str, outcome: Outcome, original: Reading, decided: Reading) -> Row:
    return dataclasses.replace(
        _row(method, outcome.size_bytes, outcome.reading, original, decided),
        mean_error=outcome.comparison.mean_error,
        errors=outcome.comparison.errors,
        histogram=f"{method}.png",
    )


def _shape(layer: nn.Module, outlier_columns: int) -> LayerShape:
    outputs, inputs = output_rows(layer).shape
    return LayerShape(outputs, inputs, outlier_columns)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
