"""Tiny engines are built while these modules run: one thread, and none left set for others."""

from engine.conftest import _one_thread as _one_thread
