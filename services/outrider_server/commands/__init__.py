"""The command line: what it reads, what it starts."""
