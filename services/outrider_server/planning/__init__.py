"""What a model needs in memory and how fast it could be, from its configuration alone. Reads no weights."""
