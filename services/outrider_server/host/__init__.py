"""A model in service: the thread that owns its engine, and what the event loop asks of it."""
