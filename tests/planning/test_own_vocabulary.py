"""A draft with a vocabulary of its own is planned as it is: its own rows, and draws over its target's ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands_for_tests import Run
from models_for_tests import needs_kernels
from outrider_server.core.errors import ModelRefused
from outrider_server.models import DRAFT_FOLDER
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.memory import plan_memory
from outrider_server.planning.plan import make_plan
from outrider_server.planning.settings import PlanSettings
from outrider_server.planning.shape import engine_shape
from own_vocabularies import save_cut

from .comparing import compare
from .configs import options

KNOWN, TARGET = 1023, 4096


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cut(DRAFT_FOLDER, tmp_path_factory.mktemp("models") / "cut", [*range(1, 4092, 4)])


@pytest.mark.parametrize(
    ("mode", "slots"), [("off", 8), pytest.param("auto", 8, marks=needs_kernels)]
)
def test_its_engine_needs_what_is_planned(cut: Path, mode: str, slots: int) -> None:
    found = compare(cut, mode, slots)
    assert found.plan.cache_bytes == found.real.cache
    assert found.plan.table_bytes >= found.real.tables
    assert found.ratio == pytest.approx(1, abs=0.05)


def test_its_rows_are_counted_and_draws_go_over_the_targets_ids(cut: Path) -> None:
    own, whole = count_model(read_config(cut)), count_model(read_config(DRAFT_FOLDER))
    rows = TARGET - (KNOWN + 1)
    matrices = [tensor for tensor in whole.tensors if tensor.count == TARGET * whole.hidden]
    assert whole.parameters - own.parameters == rows * whole.hidden * len(matrices)
    assert (own.vocabulary, own.drawn_ids, whole.drawn_ids) == (KNOWN + 1, TARGET, TARGET)
    shape = engine_shape(own, options(compile="off"))
    tables = [plan_memory(sizes, shape).table_bytes for sizes in (own, whole)]
    assert tables[0] - tables[1] == 8 * (TARGET + 2 * (KNOWN + 1))
    assert f"knows {KNOWN:,} of its target's {TARGET:,} token ids" in own.notes[0]


def test_it_is_planned_as_a_draft_and_refused_as_a_target(cut: Path, run_command: Run) -> None:
    for named in (cut, cut / "config.json"):
        with pytest.raises(ModelRefused, match=f"{cut} has a vocabulary of its own .* can only dr"):
            make_plan(PlanSettings(target=options(folder=named)))
    outcome = run_command("plan", "--draft", str(cut), "--json")
    assert outcome.status == 0
    assert json.loads(outcome.stdout)["draft"]["parameters"] < 10**6
