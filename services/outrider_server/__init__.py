"""The three services of Outrider: draft, target and session, and what they are built from."""

__version__ = "0.1.0"
