"""The shapes of the two models.

Every dimension is a multiple of 32, so that matrix kernels, quantized ones too,
take them without padding.
"""

from typing import TypedDict, Unpack

from transformers import LlamaConfig

from .tokenizer import VOCABULARY_SIZE

MAX_CONTEXT_TOKENS = 1024


class _Dimensions(TypedDict):
    """What the two models differ in."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int


def target_config(document_start: int) -> LlamaConfig:
    """About 9.4 million parameters: the model whose text is served."""
    return _llama_config(
        document_start,
        hidden_size=384,
        num_hidden_layers=5,
        intermediate_size=1024,
        num_attention_heads=6,
        num_key_value_heads=2,
    )


def draft_config(document_start: int) -> LlamaConfig:
    """About 1.0 million parameters, half of them the embedding: the model that guesses."""
    return _llama_config(
        document_start,
        hidden_size=128,
        num_hidden_layers=2,
        intermediate_size=512,
        num_attention_heads=2,
        num_key_value_heads=1,
    )


def _llama_config(document_start: int, **dimensions: Unpack[_Dimensions]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        head_dim=64,
        max_position_embeddings=MAX_CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=document_start,
        eos_token_id=document_start,
        pad_token_id=document_start,
        **dimensions,
    )
