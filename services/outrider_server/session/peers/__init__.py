"""Targets and drafts as the session service reaches them."""
