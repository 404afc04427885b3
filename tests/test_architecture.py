"""The architecture, held by tests: boundaries, the contract, small files, documents that stay true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
import typer
from google.protobuf import descriptor_pb2
from outrider.cli.app import app as client_app
from outrider_server.commands.cli import app as server_app
from outrider_server.rpc import errors, telemetry

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/decisions.md",
    "docs/drafts.md",
    "docs/models.md",
    "docs/operations.md",
    "docs/protocol.md",
    "docs/quantized-serving.md",
]
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a fresh interpreter in the repository's root."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


# Boundaries


def test_the_import_contracts_hold() -> None:
    lint = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    outcome = run_python("-c", lint)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("outrider", "torch transformers tokenizers numpy jinja2 opentelemetry outrider_server"),
        ("outrider.cli.app", "torch transformers tokenizers numpy outrider_server"),
        ("outrider_server.speculation.decoder", "torch transformers numpy grpc google outrider"),
        ("outrider_server.session.service", "torch transformers numpy"),
        ("outrider_server.session.ledger.sqlite_ledger", "torch transformers numpy grpc"),
        ("outrider_server.commands.wiring", "torch transformers numpy"),
        ("outrider_server.commands.cli", "torch transformers numpy grpc"),
        ("outrider_server.commands.engines", "transformers torch._dynamo scipy sympy"),
    ],
)
def test_a_fresh_import_stays_inside_its_boundary(module: str, unwanted: str) -> None:
    script = f"import sys, {module}; print(*sorted(set('{unwanted}'.split()) & set(sys.modules)))"
    outcome = run_python("-c", script)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.split() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and those for types alone count too."""
    graph = grimp.build_graph("outrider", "outrider_server", "outrider_bench", cache_dir=None)
    imported = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as found:
        pytest.fail("imported by the next one: " + ", ".join(found.args[1]))


# The contract


def test_the_generated_stubs_are_fresh() -> None:
    outcome = run_python("protos/generate.py", "--check")
    assert outcome.returncode == 0, outcome.stderr


def test_every_element_of_the_contract_is_commented(tmp_path: Path) -> None:
    assert list(uncommented(compiled_protos(tmp_path))) == []


def compiled_protos(folder: Path) -> descriptor_pb2.FileDescriptorSet:
    """The project's protos with their comments."""
    image = folder / "protos.binpb"
    outcome = run_python("protos/generate.py", "--image", str(image))
    assert outcome.returncode == 0, outcome.stderr
    protos = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    own = [file for file in protos.file if file.package == "outrider.v1"]
    assert len(own) == 4
    return descriptor_pb2.FileDescriptorSet(file=own)


def uncommented(protos: descriptor_pb2.FileDescriptorSet) -> Iterator[str]:
    """Every service, method, message, field, enum and value without a comment above it."""
    for file in protos.file:
        commented = {
            tuple(location.path)
            for location in file.source_code_info.location
            if location.leading_comments.strip()
        }
        for path, name in elements(file):
            if path not in commented:
                yield f"{file.name}: {name}"


def elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """(path, name) of everything that a reader meets. The numbers are those of descriptor.proto."""
    for index, message in enumerate(file.message_type):
        yield (4, index), message.name
        assert not message.nested_type or all(
            nested.options.map_entry for nested in message.nested_type
        ), "messages stand at the top, where this check sees them"
        for inner, field in enumerate(message.field):
            yield (4, index, 2, inner), f"{message.name}.{field.name}"
        for inner, oneof in enumerate(message.oneof_decl):
            if not oneof.name.startswith("_"):  # one that `optional` makes
                yield (4, index, 8, inner), f"{message.name}.{oneof.name}"
    for index, enum in enumerate(file.enum_type):
        yield (5, index), enum.name
        for inner, value in enumerate(enum.value):
            yield (5, index, 2, inner), value.name
    for index, service in enumerate(file.service):
        yield (6, index), service.name
        for inner, method in enumerate(service.method):
            yield (6, index, 2, inner), f"{service.name}.{method.name}"


# Small files


def own_files() -> Iterator[Path]:
    """The project's own Python files, without generated code and the training of the bundled pair."""
    for folder in ("client", "services", "bench"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            name = path.as_posix()
            if "/outrider/v1/" not in name and "/models/training/" not in name:
                yield path


def test_no_file_is_longer_than_the_rule_allows() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in own_files()}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_the_rule_allows() -> None:
    long = [
        f"{path.name}: {node.name} has {code_lines(node)} lines"
        for path in own_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function) and code_lines(node) > MAX_FUNCTION_LINES
    ]
    assert long == []


def code_lines(function: Function) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


# Time, chance and channels


CHECKED = (
    *(
        f"services/outrider_server/{package}/**/*.py"
        for package in ("core", "session", "speculation", "pacing", "draft", "target", "rpc")
    ),
    "services/outrider_server/engine/*.py",
    "services/outrider_server/engine/scheduling/*.py",
    "client/outrider/*.py",
)
"""What the simulation runs; below the engine's host are also those who time devices and ranks."""
SOURCES = ("time", "random", "uuid", "secrets")
OPENERS = ("open_channel", "insecure_channel", "secure_channel")
NAMES_THE_REAL = {
    "services/outrider_server/core/surroundings.py": SOURCES,
    "services/outrider_server/rpc/channels.py": OPENERS,
    "client/outrider/_channel.py": OPENERS,
}


def test_clocks_chance_and_channels_are_arguments() -> None:
    paths = sorted(path for pattern in CHECKED for path in REPOSITORY.glob(pattern))
    names = [path.relative_to(REPOSITORY).as_posix() for path in paths]
    uses = [
        f"{name}:{line} uses {what}"
        for name, path in zip(names, paths, strict=True)
        for line, what in taken_from_outside(path.read_text())
        if what not in NAMES_THE_REAL.get(name, ())
    ]
    assert set(NAMES_THE_REAL) < set(names)
    assert uses == []


def taken_from_outside(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of real time, chance or channels, but as the type or the default of an argument."""
    tree, names = ast.parse(source), set(OPENERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname or each.name for each in node.names if each.name in SOURCES}
        if isinstance(node, ast.ImportFrom) and node.module in SOURCES and not node.level:
            names |= {each.asname or each.name for each in node.names}
    left = {below for each in replaceable(tree) for below in ast.walk(each)}
    for node in ast.walk(tree):
        if node in left:
            continue
        if isinstance(node, ast.Name) and node.id in names:
            yield node.lineno, node.id
        if isinstance(node, ast.Attribute) and node.attr in OPENERS:
            yield node.lineno, node.attr


def replaceable(tree: ast.Module) -> Iterator[ast.AST]:
    """Types, and the defaults of arguments and fields, where they call nothing by themselves."""
    defaults: list[ast.AST | None] = []
    for node in ast.walk(tree):
        types = getattr(node, "annotation", None), getattr(node, "returns", None)
        yield from (each for each in types if isinstance(each, ast.AST))
        if isinstance(node, ast.arguments):
            defaults += [*node.defaults, *node.kw_defaults]
        if isinstance(node, ast.ClassDef):
            defaults += [each.value for each in node.body if isinstance(each, ast.AnnAssign)]
    yield from (
        each for each in defaults if isinstance(each, ast.Name | ast.Attribute | ast.Lambda)
    )


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef now(): return time.monotonic()",
        "import time as clock\nnow = clock.time()",
        "from time import monotonic\ndef now(): return monotonic()",
        "def draw():\n    import random\n    return random.random()",
        "from random import Random\nCHANCE = Random(1)",
        "import uuid\ndef make(name=uuid.uuid4()): return name",
        "import time\nclass Turn:\n    at: float = field(default_factory=time.monotonic)",
        "import time\ndef now(): clock: Clock = time.monotonic",
        "import secrets\nseeds = map(secrets.randbits, [1])",
        "from .rpc.channels import open_channel\ndef link(at): return open_channel(at)",
        "import grpc\ndef link(at): return grpc.aio.insecure_channel(at)",
    ],
)
def test_what_is_taken_from_outside_is_seen(source: str) -> None:
    assert len(list(taken_from_outside(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef wait(clock=time.monotonic): return clock()",
        "import time\nclass Turn:\n    clock: Clock = time.monotonic",
        "import time\ndef wait(*, wall_us=lambda: time.time_ns() // 1000): return wall_us()",
        "from random import Random\ndef draw(chance: Random) -> Random: return chance",
        "def wait(loop, chance): return loop.time() + chance.random()",
    ],
)
def test_what_an_argument_replaces_is_not_taken_from_outside(source: str) -> None:
    assert list(taken_from_outside(source)) == []


# True documents


@pytest.mark.parametrize(
    ("name", "app"), [("outrider-server", server_app), ("outrider", client_app)]
)
def test_every_command_and_option_is_in_the_operations_guide(name: str, app: typer.Typer) -> None:
    guide = (DOCS / "operations.md").read_text()
    missing = []
    for command, options in commands(typer.main.get_command(app), name):
        section = guide.partition(f"### `{command}`\n")[2].partition("\n### ")[0]
        missing += [f"{command} {option}" for option in options if f"`{option}" not in section]
        if not section:
            missing.append(command)
    assert missing == []


def commands(command: typer.core.TyperCommand, name: str) -> Iterator[tuple[str, list[str]]]:
    """(full name, long options) of every command below one that may have more."""
    if isinstance(command, typer.core.TyperGroup):
        for inner, found in command.commands.items():
            yield from commands(found, f"{name} {inner}")
    else:
        options = [option for parameter in command.params for option in parameter.opts]
        yield name, [option for option in options if option.startswith("--")]


def test_every_error_is_in_the_operations_guide() -> None:
    guide = (DOCS / "operations.md").read_text()
    for entry in errors.TABLE:
        assert f"| {entry.code.name} | {entry.reason} |" in guide


def test_every_span_and_metric_is_in_the_operations_guide() -> None:
    guide = (DOCS / "operations.md").read_text()
    names = {value for key, value in vars(telemetry).items() if key.endswith("_SPAN")}
    for module in ("rpc/telemetry.py", "commands/wiring.py"):
        text = (REPOSITORY / "services" / "outrider_server" / module).read_text()
        names |= set(re.findall(r'create_\w+\(\s*"([\w.]+)"', text))
        for observed in re.findall(r'f"(outrider\.\{name\}\.\w+)"', text):
            names |= {observed.format(name=name) for name in ("target", "draft")}
    assert len(names) > 15
    assert sorted(name for name in names if f"`{name}`" not in guide) == []


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_between_documents_lead_somewhere(path: str) -> None:
    document = REPOSITORY / path
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_the_snippets_of_the_readme_are_python() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        ast.parse(snippet)
