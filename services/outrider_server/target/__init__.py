"""The target service: the large model, which decides every token."""
