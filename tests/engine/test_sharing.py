"""Which models ranks may share, decided by the configuration alone."""

from __future__ import annotations

import pytest
import transformers
from models_for_tests import llama_config
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.model.summing import plan_in_order
from outrider_server.engine.ranks.sharing import check_shares, key_heads, shares_keys

HEADS = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def config(kind: str, **settings: object) -> transformers.PreTrainedConfig:
    made: transformers.PreTrainedConfig = getattr(transformers, f"{kind}Config")(**settings)
    return made


@pytest.mark.parametrize(
    ("refused", "ranks", "reason"),
    [
        (config("GPT2"), 2, "the library has no plan to share gpt2 among ranks"),
        (config("Bloom"), 2, "no plan to share bloom"),
        (config("Mpt"), 2, "no plan to share mpt"),
        (config("Falcon"), 2, "no plan to share falcon"),
        (config("Cohere", **HEADS), 2, "sharing cohere among ranks was not verified"),
        (
            llama_config(num_key_value_heads=1),
            2,
            "4 heads over 1 key heads cannot be shared evenly",
        ),
        (llama_config(num_key_value_heads=4), 3, "shared evenly by 3 ranks"),
        (
            config("Olmo2", **HEADS),
            3,
            "4 heads over 2 key heads cannot be shared evenly by 3 ranks",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_with_the_reason(
    refused: transformers.PreTrainedConfig, ranks: int, reason: str
) -> None:
    check_shares(refused, 1)
    with pytest.raises(ModelRefused, match=reason) as error:
        check_shares(refused, ranks)
    assert "\n" not in str(error.value)


def test_a_quantized_checkpoint_is_not_shared() -> None:
    stored = llama_config()
    stored.quantization_config = {"quant_method": "gptq", "bits": 4}
    check_shares(stored, 1)
    with pytest.raises(ModelRefused, match="quantized, which several ranks cannot share"):
        check_shares(stored, 2)


def test_a_cache_holds_a_share_of_the_key_heads_unless_the_plan_gathers_them() -> None:
    assert [key_heads(llama_config(num_key_value_heads=4), ranks) for ranks in (1, 2, 4)] == [
        4,
        2,
        1,
    ]
    gathered = config("Olmo2", **HEADS)
    assert not shares_keys(gathered)
    assert key_heads(gathered, 2) == 2
    check_shares(gathered, 4)


def test_every_sum_of_a_plan_is_made_in_the_order_of_the_ranks() -> None:
    for kind in ("Llama", "Mixtral", "Phi3", "Qwen2Moe", "GPTNeoX"):
        made = config(kind)
        summed = {
            name
            for name, style in made.base_model_tp_plan.items()
            if style.startswith("rowwise") or style in ("moe_tp_experts", "all_reduce")
        }
        assert summed
        assert {name.partition(".")[2] for name in plan_in_order(made)} == summed
