"""Imports without garbage collection: they make hundreds of thousands of objects, none of it garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_imports() -> Iterator[None]:
    """No garbage is looked for while modules are imported, in any thread, nor among their objects later.

    All objects that there are by then are left out, unless the modules had been imported before.
    """
    collects, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if collects:
            gc.enable()
