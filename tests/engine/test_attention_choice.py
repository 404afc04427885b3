"""Which attention kernel an engine runs, and what is refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import (
    loaded,
    needs_kernels,
    packable_llama,
    packed_runner,
    save_folder,
    tiny_limits,
    tiny_llama,
)
from outrider_server.core.errors import StartupError
from outrider_server.engine.attention import attention_choice, attention_names
from outrider_server.engine.attention.attention import slot_attention
from outrider_server.engine.attention.attention_choice import preferred
from outrider_server.engine.attention.attention_kernels import KERNELS
from outrider_server.engine.attention.attention_names import check_attention
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Row
from outrider_server.engine.options import EngineOptions
from outrider_server.engine.readying import GREEDY
from outrider_server.engine.step import StepRunner
from outrider_server.host.building import engine_builder
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

ON_CPU = ("sdpa", "math", "eager", "flex")
CAPPED = ("eager", "flex")
PROMPT = tuple(7 * index % 61 for index in range(43))


def tiny_gemma2() -> PreTrainedModel:
    """A random model that caps its scores."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    return Gemma2ForCausalLM(config).eval()


def librarys_tokens(model: PreTrainedModel, count: int = 24) -> list[int]:
    """Greedy tokens after the prompt by the library's own loop and attention."""
    prompt = torch.tensor([PROMPT])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(PROMPT) :].tolist()


def generate(runner: StepRunner, count: int = 24) -> list[int]:
    """Greedy tokens after the prompt, whose last 27 tokens are read by verify steps."""
    runner.draws.write(1, GREEDY)
    runner.prefill(Row(1, 0, PROMPT[:16]))
    for start in range(16, len(PROMPT), 8):
        part = PROMPT[start : start + 8]
        last = runner.decide([Row(1, start, part)], 1)[0].tokens[-1]
    tokens = [last]
    while len(tokens) < count:
        place = len(PROMPT) + len(tokens) - 1
        tokens += runner.decide([Row(1, place, (tokens[-1],))], 1)[0].tokens
    return tokens


@pytest.mark.parametrize("kernel", ON_CPU)
def test_every_kernel_gives_the_librarys_tokens_in_every_shape_of_step(kernel: str) -> None:
    engine = Engine(loaded(tiny_llama()), tiny_limits(), "off", attention=kernel)
    assert generate(engine.runner) == librarys_tokens(tiny_llama())
    assert engine.audit.all_interchangeable
    assert engine.describe().attention == kernel
    assert engine.describe().attention_note == f"{kernel} was asked for"


@pytest.mark.parametrize("kernel", CAPPED)
def test_kernels_that_cap_scores_give_the_librarys_tokens(kernel: str) -> None:
    model = tiny_gemma2()
    model.set_attn_implementation("eager")
    runner = StepRunner(loaded(tiny_gemma2()), tiny_limits(), "off", kernel)
    assert generate(runner) == librarys_tokens(model)


@pytest.mark.parametrize("kernel", ["sdpa", "math"])
def test_kernels_that_cannot_cap_scores_refuse_a_model_that_wants_it(kernel: str) -> None:
    with pytest.raises(StartupError, match=rf"{kernel} cannot run: .*gemma2.*eager or flex"):
        StepRunner(loaded(tiny_gemma2()), tiny_limits(), "off", kernel)


def test_auto_leaves_them_out() -> None:
    runner = StepRunner(loaded(tiny_gemma2()), tiny_limits(), "off")
    assert runner.attention.kernel == "eager"


def test_auto_measures_what_the_machine_has_and_says_so() -> None:
    runner = StepRunner(loaded(tiny_llama()), tiny_limits(), "off")
    assert runner.attention.kernel in ("sdpa", "math", "eager")
    for name in ("4 rows of 8 tokens", "sdpa", "math", "eager", " ms"):
        assert name in runner.attention.note
    assert "flash" not in runner.attention.note


def breaking(*broken: str) -> Callable[..., torch.Tensor]:
    """Attention whose kernels of these names crash."""

    def attend(*arguments: Any) -> torch.Tensor:
        if arguments[4] in broken:
            raise RuntimeError(f"{arguments[4]} broke\nand more")
        return slot_attention(*arguments)

    return attend


def test_a_kernel_that_crashes_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_choice, "slot_attention", breaking("math"))
    choice = StepRunner(loaded(tiny_llama()), tiny_limits(), "off").attention
    assert choice.kernel in ("sdpa", "eager")
    assert choice.note.endswith("; math failed: math broke")


def test_where_every_kernel_crashes_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_choice, "slot_attention", breaking("sdpa", "math", "eager"))
    with pytest.raises(
        StartupError, match="no attention kernel runs here; sdpa failed: sdpa broke"
    ):
        StepRunner(loaded(tiny_llama()), tiny_limits(), "off")


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ({"sdpa": 1.0, "math": 1.0}, "sdpa"),
        ({"sdpa": 1.4, "math": 1.0, "eager": 1.2}, "sdpa"),
        ({"sdpa": 1.6, "math": 1.2, "eager": 1.0}, "eager"),
        ({"eager": 9.0}, "eager"),
    ],
)
def test_the_first_kernel_is_kept_unless_another_is_clearly_faster(
    milliseconds: dict[str, float], chosen: str
) -> None:
    assert preferred(milliseconds) == chosen


def test_other_work_that_disturbs_most_runs_of_a_kernel_changes_no_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A target that is started again must compute as before, whatever the machine does meanwhile."""
    disturbed = iter([9.0] * 15 + [1.0] * 100)
    monkeypatch.setattr(
        attention_choice, "_seconds", lambda call: next(disturbed) if call == "sdpa" else 0.9
    )
    measured = attention_choice._measure({"sdpa": "sdpa", "math": "math", "eager": "eager"})
    assert preferred(measured) == "sdpa"


@needs_kernels
def test_the_engines_own_kernel_runs_by_itself_and_by_name() -> None:
    assert packed_runner().attention.kernel == "packed"
    by_name = StepRunner(loaded(packable_llama()), tiny_limits(), "auto", "packed")
    assert by_name.layout.packed


def test_another_kernel_keeps_the_model_off_the_engines_own() -> None:
    runner = StepRunner(loaded(packable_llama()), tiny_limits(), "auto", "math")
    assert not runner.layout.packed
    assert runner.kernel_note == "attention math was asked for"


def test_the_engines_own_kernel_refuses_what_it_cannot_serve() -> None:
    with pytest.raises(
        StartupError, match="packed cannot run: the kernels do not take heads of 288"
    ):
        StepRunner(loaded(tiny_llama(head_dim=288)), tiny_limits(), "auto", "packed")
    with pytest.raises(StartupError, match="packed cannot run: compilation is switched off"):
        StepRunner(loaded(packable_llama()), tiny_limits(), "off", "packed")


@pytest.mark.parametrize(
    ("kernel", "device", "sentence"),
    [
        ("flash", "cpu", "needs a CUDA device, and the model is on cpu; use sdpa"),
        ("efficient", "cpu", "needs a CUDA device, and the model is on cpu; use sdpa"),
        ("flash", "cuda", "needs the package flash-attn; pip install flash-attn"),
        ("packed", "cuda", "needs a CPU, and the model is on cuda; use sdpa"),
        ("flex", "cpu", r"needs a C\+\+ compiler; install g\+\+"),
    ],
)
def test_what_the_machine_lacks_is_refused_by_name(
    kernel: str, device: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(attention_names, "find_spec", lambda _: None)
    with pytest.raises(StartupError, match=f"attention {kernel} cannot run: it {sentence}"):
        check_attention(kernel, device)


def test_a_kernel_that_fails_on_its_first_call_is_refused_by_what_it_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("no such kernel\nand much more")

    monkeypatch.setitem(KERNELS, "math", fail)
    with pytest.raises(StartupError, match=r"^attention math cannot run: no such kernel$"):
        StepRunner(loaded(tiny_llama()), tiny_limits(), "off", "math")
    assert StepRunner(loaded(tiny_llama()), tiny_limits(), "off").attention.kernel != "math"


def test_a_service_refuses_flash_on_a_cpu_before_it_reads_a_weight(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    build = engine_builder(
        EngineOptions(
            folder=folder,
            dtype="auto",
            device="cpu",
            slots=1,
            rows=1,
            width=8,
            prefill_width=16,
            max_context_tokens=0,
            compile="off",
            threads=1,
            attention="flash",
            park_bytes=0,
        )
    )
    with pytest.raises(StartupError, match="attention flash cannot run"):
        build()
