"""What a report is asked for, checked before any work is done. Standard library only."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import require
from ..models import DRAFT_FOLDER, TARGET_FOLDER

OWN_METHODS = ("absmax", "zero-point", "absmax-row", "zero-point-row")
LIBRARY_METHODS = ("int8", "nf4", "fp4")
"""Those of bitsandbytes."""
METHODS = (*OWN_METHODS, *LIBRARY_METHODS)
DTYPES = ("auto", "float32", "bfloat16", "float16")
SMALLEST_TEXT_TOKENS = 256
PACKAGES = {"matplotlib": "bench", "bitsandbytes": "quantization", "accelerate": "quantization"}
"""What this needs beyond the engine, and the extra that brings it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeSettings:
    """Frozen settings of one report. Raises StartupError for what cannot be done."""

    model: Path
    output: Path
    text: Path | None = None
    """None takes what the bundled pair never trained on; other models need a text."""
    target: Path | None = None
    """The model to draft for; None takes the unquantized model itself."""
    methods: tuple[str, ...] = METHODS
    tokens: int = 16384
    """The most tokens of the text that are read."""
    dtype: str = "auto"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for folder in (self.model, *((self.target,) if self.target else ())):
            require(
                (folder / "config.json").is_file(),
                f"model folder {folder} does not exist or has no config.json",
            )
        unknown = sorted(set(self.methods) - set(METHODS))
        require(
            not unknown and bool(self.methods),
            f"no such method: {', '.join(unknown) or 'none given'}; there are {', '.join(METHODS)}",
        )
        require(
            SMALLEST_TEXT_TOKENS <= self.tokens <= 2**24,
            f"tokens must be {SMALLEST_TEXT_TOKENS} to {2**24}",
        )
        require(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}")
        self._require_text()
        needed = ["matplotlib"]
        if set(self.methods) & set(LIBRARY_METHODS):
            needed += ["bitsandbytes", "accelerate"]
        for package in needed:
            require(
                importlib.util.find_spec(package) is not None,
                f"the package {package} is missing: pip install 'outrider[{PACKAGES[package]}]'",
            )

    @property
    def bundled(self) -> bool:
        """Whether the model is one of the bundled pair."""
        folders = {TARGET_FOLDER.resolve(), DRAFT_FOLDER.resolve()}
        return self.model.resolve() in folders

    def _require_text(self) -> None:
        if self.text is None:
            require(
                self.bundled,
                "--text is needed: a UTF-8 file of text like that which the model is for, "
                "and which it never trained on",
            )
        else:
            require(self.text.is_file(), f"the text {self.text} is no file")
            require(self.text.stat().st_size > 0, f"the text {self.text} is empty")
