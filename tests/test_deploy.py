"""The deployment files name what exists: commands, options, stages, ports, folders. No Docker is needed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from outrider_server import config
from outrider_server.commands.cli import app
from outrider_server.rpc.serve import Server

REPOSITORY = Path(__file__).resolve().parents[1]
DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
LOCK = (REPOSITORY / "constraints.txt").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PORTS = {
    "session": config.SESSION_PORT,
    "target": config.TARGET_PORT,
    "draft": config.DRAFT_PORT,
}
IMAGES = {"session": "session", "target": "engine", "draft": "engine"}
MODEL_LIBRARIES = {"torch", "transformers", "safetensors", "numpy", "accelerate"}


def stages() -> dict[str, str]:
    """Name to text of every stage of the Dockerfile, continued lines joined."""
    pieces = re.split(r"^FROM \S+ AS (\w+)$", DOCKERFILE.replace("\\\n", " "), flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The options that `outrider-server ARGUMENTS` would run with; fails where it would refuse them."""
    command, *options = arguments
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return dict(commands[command].make_context(command, list(options)).params)


def options_of(service: str) -> dict[str, Any]:
    """The options of a service of compose.yaml."""
    return parsed(COMPOSE["services"][service]["command"])


def command_of(stage: str) -> list[str]:
    """The default command of a stage."""
    (command,) = re.findall(r"^CMD (\[.*\])$", stages()[stage], flags=re.MULTILINE)
    arguments: list[str] = json.loads(command)
    return arguments


def requirements_of(extra: str) -> set[str]:
    """Names of the packages that an extra of the distribution asks for, its other extras included."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names: set[str] = set()
    for requirement in project["dependencies"] + project["optional-dependencies"][extra]:
        name, further = re.match(r"([\w-]+)(?:\[(\w+)\])?", requirement).groups()
        names |= requirements_of(further) if name == "outrider" else {name}
    return names


def test_the_session_extra_asks_for_no_model_library() -> None:
    assert not requirements_of("session") & MODEL_LIBRARIES


def test_the_engine_extra_asks_for_torch() -> None:
    assert "torch" in requirements_of("engine")


@pytest.mark.parametrize(("stage", "extra"), [("session", "postgres"), ("engine", "engine")])
def test_each_image_installs_its_own_extra_alone(stage: str, extra: str) -> None:
    assert re.findall(r"\.whl\)\[(\w+)\]", stages()[stage]) == [extra]


def test_the_session_image_never_mentions_torch() -> None:
    assert "torch" not in (stages()["base"] + stages()["session"]).lower().split("#")[0]


def test_the_engine_image_takes_the_torch_of_the_lock() -> None:
    (locked,) = re.findall(r"^torch==.*$", LOCK, flags=re.MULTILINE)
    assert f'ARG TORCH_REQUIREMENT="{locked}"' in DOCKERFILE


@pytest.mark.parametrize("stage", ["session", "engine"])
def test_the_images_are_installed_from_the_lock(stage: str) -> None:
    (install,) = re.findall(r"pip install (.*)\.whl", stages()[stage])
    assert "--constraint" in install


@pytest.mark.parametrize(("stage", "service"), [("session", "session"), ("engine", "target")])
def test_the_images_default_commands_exist(stage: str, service: str) -> None:
    command = command_of(stage)
    assert command[0] == service
    assert parsed(command)["listen"] == f"0.0.0.0:{PORTS[service]}"


@pytest.mark.parametrize("stage", ["session", "engine"])
def test_images_run_as_an_ordinary_user_and_know_their_health(stage: str) -> None:
    assert re.findall(r"^USER (\w+)$", stages()[stage], flags=re.MULTILINE) == ["outrider"]
    assert "HEALTHCHECK" in stages()[stage]
    assert 'ENTRYPOINT ["outrider-server"]' in stages()[stage]


def test_the_engine_image_has_a_compiler_and_what_it_makes() -> None:
    """Compiled by who may write beside what is installed, for any machine of the type."""
    installed, _, run = stages()["engine"].partition("USER")
    assert "g++" in installed
    (command,) = re.findall(r"^RUN outrider-server (.*)$", installed, flags=re.MULTILINE)
    assert parsed(command.split()) == {"all_levels": True}
    assert "outrider-server kernels" not in run


@pytest.mark.parametrize("service", ["session", "target", "draft"])
def test_composed_services_listen_where_they_are_asked_for_their_health(service: str) -> None:
    description = COMPOSE["services"][service]
    assert description["build"]["target"] == IMAGES[service]
    assert description["command"][0] == service
    assert options_of(service)["listen"] == f"0.0.0.0:{PORTS[service]}"
    assert description["environment"]["HEALTH_ADDRESS"] == f"127.0.0.1:{PORTS[service]}"


def test_compose_has_the_three_services_and_no_other() -> None:
    assert COMPOSE["services"].keys() == PORTS.keys()


def test_the_session_finds_target_and_draft() -> None:
    options = options_of("session")
    assert options["target"] == f"target:{config.TARGET_PORT}"
    assert options["draft"] == f"draft:{config.DRAFT_PORT}"


def test_the_ledger_lives_in_a_volume() -> None:
    (mount,) = COMPOSE["services"]["session"]["volumes"]
    volume, folder = mount.split(":")
    assert volume in COMPOSE["volumes"]
    assert Path(options_of("session")["ledger"]).parent == Path(folder)
    assert f"VOLUME {folder}\n" in DOCKERFILE


def test_only_the_public_port_is_published_and_to_this_machine_only() -> None:
    published = {
        name: description.get("ports", []) for name, description in COMPOSE["services"].items()
    }
    port = config.SESSION_PORT
    assert published == {"session": [f"127.0.0.1:{port}:{port}"], "target": [], "draft": []}


def test_the_session_waits_for_a_healthy_target_but_not_for_the_drafts_health() -> None:
    conditions = {
        name: needed["condition"]
        for name, needed in COMPOSE["services"]["session"]["depends_on"].items()
    }
    assert conditions == {"target": "service_healthy", "draft": "service_started"}


@pytest.mark.parametrize(
    ("service", "drain_seconds"),
    [
        ("session", config.SessionConfig(ledger=Path("ledger.db")).drain_seconds),
        ("target", config.TargetConfig().drain_seconds),
        ("draft", config.DraftConfig().drain_seconds),
    ],
)
def test_containers_are_given_the_time_to_drain(service: str, drain_seconds: float) -> None:
    grace = COMPOSE["services"][service]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > drain_seconds


def test_what_the_dockerfile_copies_exists_and_reaches_the_builder() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [line.removeprefix("!") for line in lines if line.startswith("!")]
    copied = [
        source
        for arguments in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, flags=re.MULTILINE)
        for source in shlex.split(arguments)[:-1]
    ]
    assert sorted(copied) == sorted(let_in)
    assert [source for source in copied if not (REPOSITORY / source).exists()] == []


async def test_the_health_check_tells_a_serving_server_from_a_draining_or_missing_one() -> None:
    server = Server([])
    address = await server.start("127.0.0.1:0")
    assert await health_status(address) == 0
    await server.drain(0)
    assert await health_status(address) == 1


async def health_status(address: str) -> int:
    """Exit status of the containers' health check."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(DEPLOY / "healthcheck.py"),
        env={**os.environ, "HEALTH_ADDRESS": address},
        stderr=subprocess.DEVNULL,
    )
    return await process.wait()


def test_the_ci_script_is_executable_and_stops_at_the_first_failure() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
