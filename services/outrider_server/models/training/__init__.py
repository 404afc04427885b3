"""How the bundled pair was made: corpus, tokenizer, target, draft, evaluation.

Run it with `python -m outrider_server.models.training --out FOLDER --seed 0`.
It reads the standard library of the running Python and nothing else, and needs
torch, transformers, tokenizers and safetensors. Serving never imports it.
"""
