"""From a folder to a model that steps can run: files, weights, tokenizers, quantization, packing."""
