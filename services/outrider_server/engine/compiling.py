"""Compiles what a step runs, and falls back to running it eagerly where that fails."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from .kernels import compiler_failure
from .model.loading import LoadedModel

MIN_PARAMETERS_TO_COMPILE = 500_000
"""Below this a step is all overhead of the framework and too short to be worth a compiler's time."""


class GuardedCompiler:
    """Compiles functions of one engine; the first failure turns all of them eager for good."""

    def __init__(self, loaded: LoadedModel, mode: str) -> None:
        self.note = _reason_not_to_compile(loaded, mode)
        if self.note and self.note == _compiler_failure(loaded):
            _tell_what_is_slower(self.note)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The bound method, compiled on its first call if at all."""
        if self.note:
            return function
        own = _with_code_of_its_own(function)
        compiled = torch.compile(own, fullgraph=True, dynamic=False)

        def run(*arguments: Any) -> Any:
            if self.note:
                return function(*arguments)
            try:
                return compiled(*arguments)
            except torch._dynamo.exc.TorchDynamoException as error:
                self._fall_back(f"the step does not compile ({type(error).__name__})")
                return function(*arguments)

        return run

    def _fall_back(self, note: str) -> None:
        self.note = note
        print(f"outrider: {note}; steps run eagerly", file=sys.stderr, flush=True)


@functools.cache
def _tell_what_is_slower(why: str) -> None:
    """Once a process, whatever it has engines for."""
    told = f"outrider: steps run eagerly, on torch's kernels, which is slower: {why}"
    print(told, file=sys.stderr, flush=True)


def _compiler_failure(loaded: LoadedModel) -> str:
    """Why torch could compile nothing for a CPU, if so; on other devices its compiler is another."""
    return compiler_failure() if loaded.device.type == "cpu" else ""


def _with_code_of_its_own(method: Callable[..., Any]) -> Callable[..., Any]:
    """The bound method over a copy of its code.

    The compiler finds what it compiled by the code object, and keeps a few graphs for each. Two engines of
    one process would otherwise fill that room together.
    """
    function = method.__func__  # type: ignore[attr-defined]
    own = types.FunctionType(function.__code__.replace(), function.__globals__)
    return types.MethodType(own, method.__self__)  # type: ignore[attr-defined]


def _reason_not_to_compile(loaded: LoadedModel, mode: str) -> str:
    """One sentence why steps run eagerly; empty when they are to be compiled."""
    if mode == "off":
        return "compilation is switched off"
    if loaded.ranks > 1:
        return "a model that ranks share runs eagerly"
    if failure := _compiler_failure(loaded):
        return failure
    if mode == "auto" and loaded.parameter_count < MIN_PARAMETERS_TO_COMPILE:
        return "the model is too small to gain from compilation"
    return ""
