"""What a session service makes of the target's description and tokenizer."""

import pytest
from outrider_server.core.description import ModelDescription, ShapeAudit, TokenizerFiles
from outrider_server.core.errors import StartupError
from outrider_server.session.text.model import ServedModel

from .sample_tokenizers import BEGIN, END, byte_level_raw


def description(end_token_ids: tuple[int, ...], vocabulary_size: int = 600) -> ModelDescription:
    texts = dict.fromkeys(("name", "architecture", "dtype", "device", "quantization"), "")
    notes = dict.fromkeys(("compile_note", "kernel_note", "attention", "attention_note"), "")
    return ModelDescription(
        **texts,
        **notes,
        model_fingerprint="model",
        vocabulary_fingerprint="vocabulary",
        vocabulary_size=vocabulary_size,
        end_token_ids=end_token_ids,
        max_context_tokens=100,
        width=8,
        slots=1,
        parameter_count=1,
        compiled=False,
        shape_audit=ShapeAudit(False, (1,), ()),
        tokenizer_size=vocabulary_size,
        output_rows=vocabulary_size,
        generation_defaults={},
    )


def served(ends: tuple[int, ...], end_token: str, size: int = 600) -> ServedModel:
    files = TokenizerFiles(byte_level_raw().to_str().encode(), "", BEGIN, end_token)
    return ServedModel.of(description(ends, size), files)


@pytest.mark.parametrize(
    ("ends", "end_token", "size", "expected"),
    [
        ((), END, 600, (1,)),
        ((7, 3), END, 600, (7, 3, 1)),
        ((7, 1), END, 600, (7, 1)),
        ((7,), "", 600, (7,)),
        ((), END, 1, ()),
    ],
)
def test_the_tokenizers_end_token_ends_a_turn_too(ends, end_token, size, expected):
    assert byte_level_raw().token_to_id(END) == 1
    assert served(ends, end_token, size).description.end_token_ids == expected


def test_the_first_token_that_the_model_lacks_is_found():
    model = served((), END, 10)
    assert model.first_unknown([]) is None
    assert model.first_unknown([0, 9, 3]) is None
    assert model.first_unknown([3, 10]) == 1
    assert model.first_unknown([0, 9, 12, 3, 10]) == 2


def test_a_tokenizer_that_cannot_be_used_ends_the_start():
    with pytest.raises(StartupError, match="cannot be used"):
        ServedModel.of(description(()), TokenizerFiles(b"{}", "", "", ""))
