"""Which tokens end a turn, and which look like control tokens whatever a file calls them, as in llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping

ENDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
"""What a file may name as ends."""
END_TEXTS = frozenset(
    {
        *(
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<|return|>",
            "<|call|>",
            "<|flush|>",
            "<|calls|>",
        ),
        *(
            "<end_of_turn>",
            "<|endoftext|>",
            "</s>",
            "<|eom_id|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "[EOS]",
        ),
        *("<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>"),
        *("<｜end▁of▁sentence｜>", "[e~["),  # noqa: RUF001
    }
)
FILL_ENDS = frozenset(
    {
        *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
        *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
    }
)
"""What ends the filling of a gap in code."""
FILL_PARTS = frozenset(
    {
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"),  # noqa: RUF001
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),  # noqa: RUF001
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"),  # noqa: RUF001
        *("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
        *("<|prefix|>", "<|suffix|>", "<|middle|>"),
    }
)
CONTROL_TEXTS = END_TEXTS | FILL_ENDS | FILL_PARTS
NOT_ENDS = (
    ({"<|return|>", "<|call|>"}, "<|end|>"),
    ({"<|calls|>", "<|flush|>"}, "<|end|>"),
    ({"<|tool_response>"}, "</s>"),
)
"""A vocabulary with all of these has another use for that one."""


def ends_of(ids: Mapping[str, int], named: Mapping[str, int]) -> tuple[int, ...]:
    """The ids that end a turn, the one that the file calls the end of a text first.

    `ids` are those of all tokens by their text, `named` those that the file names by what they are.
    """
    found = [named[end] for end in ENDS if end in named]
    found += sorted(ids[text] for text in (END_TEXTS | FILL_ENDS) & ids.keys())
    others = {ids[text] for all_of, text in NOT_ENDS if all_of <= ids.keys() and text in ids}
    return tuple(dict.fromkeys(end for end in found if end not in others))
