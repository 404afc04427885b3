"""Drafts made for a target: its own replies, its distributions on them, and a small model that learns."""
