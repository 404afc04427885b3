"""The sessions' durable record: its interface, its statements, its two databases."""
