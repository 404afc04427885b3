"""GGUF files as models: what they say, how their tensors are read, and what their tokenizer does."""
