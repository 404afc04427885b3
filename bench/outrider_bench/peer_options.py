"""Which peers a run compares with, and on what weights: checked before any work is done."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from outrider_server.core.errors import StartupError, require
from outrider_server.engine.model.formats import is_gguf

from .cpu_level import pinned_level
from .llama_build import find_binary
from .peer_names import begins_with, check_without
from .shape import Shape
from .weights import Weights


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """Frozen settings. Raises StartupError for peers that are not there."""

    weights: Weights
    others: bool = True
    """False leaves only what is made of Outrider's own parts."""
    llama_cpp: Path | None = None
    """A folder with its server."""
    openvino_python: Path | None = None
    """A Python that has openvino-genai."""
    without: tuple[str, ...] = ()
    """Peers, or modes of one, that are left out: what their names begin with."""

    def __post_init__(self) -> None:
        check_without(self.without)
        folder, python = self.llama_cpp, self.openvino_python
        needed = ["bitsandbytes", "accelerate"] if self.weights.bits < 16 else []
        if self.others:
            pinned_level()
            if folder is not None:
                require(folder.is_dir(), f"the folder {folder} of llama.cpp does not exist")
                find_binary(folder)
            found = python is None or (python.is_file() and os.access(python, os.X_OK))
            require(found, f"{python} is no Python: make one with `python -m venv`")
            needed += ["gguf"] if folder or python else []
        for package in needed:
            if importlib.util.find_spec(package) is None:
                extra = "bench" if package == "gguf" else "quantization"
                raise StartupError(
                    f"the package {package} is missing: pip install 'outrider[{extra}]'"
                )

    def check_models(self, *models: Path | None) -> None:
        """Raises StartupError for a model that cannot be made the GGUF file that a peer reads."""
        if self.others and (self.llama_cpp or self.openvino_python):
            for model in filter(None, models):
                if not is_gguf(model):
                    Shape.of(model)

    @property
    def notes(self) -> list[str]:
        """What is left out, in a sentence; nothing where nothing is."""
        return [f"left out: {', '.join(self.without)}"] if self.others and self.without else []

    def takes(self, name: str) -> bool:
        """Whether a peer, or a mode by its whole name, competes."""
        return self.others and not any(begins_with(name, words) for words in self.without)
