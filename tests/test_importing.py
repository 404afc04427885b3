"""Imports without garbage collection: it is off meanwhile, on again after, and leaves what was imported."""

from __future__ import annotations

import gc
import sys

import pytest
from outrider_server.core.importing import many_imports


def failing_import() -> None:
    with many_imports():
        assert not gc.isenabled()
        raise ImportError


def test_collection_is_off_while_modules_are_imported_and_on_after_a_failure() -> None:
    with pytest.raises(ImportError):
        failing_import()
    assert gc.isenabled()


def test_what_was_imported_is_looked_at_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.unfreeze()  # what other tests imported
    try:
        with many_imports():
            assert gc.get_freeze_count() == 0
        assert gc.get_freeze_count() == 0, "nothing was imported"
        with many_imports():
            monkeypatch.setitem(sys.modules, "outrider_imported", gc)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with many_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
