"""Attention over the slot cache: how a step calls it, which implementation, and our own kernels' part."""
