"""What cannot be served is refused with one line on stderr and exit status 2."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER
from safetensors.torch import load_file, save_file

from .processes import ENGINE, Services


def missing(_: Path) -> str:
    return "no-such-folder"


def pickle_only(folder: Path) -> str:
    copy = Path(shutil.copytree(DRAFT_FOLDER, folder / "pickle"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    return str(copy)


def own_code(folder: Path) -> str:
    copy = Path(shutil.copytree(DRAFT_FOLDER, folder / "code"))
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "model.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    return str(copy)


def cut_off(folder: Path) -> str:
    copy = Path(shutil.copytree(DRAFT_FOLDER, folder / "cut"))
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return str(copy)


def misshapen(folder: Path) -> str:
    copy = Path(shutil.copytree(DRAFT_FOLDER, folder / "misshapen"))
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


def quantized_by_another(folder: Path) -> str:
    copy = Path(shutil.copytree(DRAFT_FOLDER, folder / "gptq"))
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (copy / "config.json").write_text(json.dumps(config))
    return str(copy)


def test_a_folder_that_cannot_be_served_is_refused_in_one_line(services: Services, tmp_path):
    """All at once, because each start takes a moment."""
    words = {
        missing: "does not exist",
        pickle_only: "pickle",
        own_code: "auto_map",
        cut_off: "cut off",
        misshapen: "model.norm.weight has the shape",
        quantized_by_another: "quantized by gptq",
    }
    started = {
        make: services.start("draft", f"--model={make(tmp_path)}", "--listen=127.0.0.1:0", *ENGINE)
        for make in words
    }
    for make, word in words.items():
        service = started[make]
        assert (service.wait(), service.address) == (2, ""), service.errors
        check_line(service.errors, word)


def test_what_a_model_or_a_checkpoint_does_not_take_is_refused_in_one_line(
    services: Services, tmp_path
):
    refusals = {
        "longer than the model's": ("--max-context-tokens=100000",),
        "quantized already": (f"--model={quantized_by_another(tmp_path)}", "--quantization=nf4"),
    }
    started = [
        (words, services.start("draft", "--listen=127.0.0.1:0", *arguments, *ENGINE))
        for words, arguments in refusals.items()
    ]
    for words, service in started:
        assert (service.wait(), service.address) == (2, ""), service.errors
        check_line(service.errors, words)


@pytest.mark.parametrize("arguments", [("--width=6",), ("--dtype=float32", "--slots=0")])
def test_a_value_that_cannot_work_is_refused_in_one_line(services: Services, arguments):
    service = services.start("target", f"--model={TARGET_FOLDER}", *arguments)
    assert service.wait() == 2
    check_line(service.errors, "must be")


def test_a_name_without_a_port_is_refused_in_one_line(services: Services, tmp_path):
    ledger = f"--ledger={tmp_path}/ledger.db"
    service = services.start("session", "--target=dns:///localhost", ledger)
    assert service.wait() == 2
    check_line(service.errors, "write dns:///HOST:PORT")


@pytest.mark.parametrize("kind", ["port", "path"])
def test_an_address_in_use_is_refused_in_one_line_before_a_model_is_looked_for(
    services: Services, tmp_path, kind
):
    place = tmp_path / "s"
    with socket.socket(socket.AF_UNIX if kind == "path" else socket.AF_INET) as taken:
        taken.bind(str(place) if kind == "path" else ("127.0.0.1", 0))
        taken.listen()
        address = f"unix:{place}" if kind == "path" else f"127.0.0.1:{taken.getsockname()[1]}"
        service = services.start("draft", f"--listen={address}", "--model=no-such-folder")
        assert service.wait() == 2
        assert kind == "port" or place.is_socket()
    check_line(service.errors, address)


@pytest.mark.parametrize("arguments", [("--listen=none",), ("--window=64",), ("--ledger=ftp://x",)])
def test_up_refuses_what_its_session_service_would_before_it_starts_one(
    services: Services, arguments
):
    service = services.start("up", "--target=no-such-folder", *arguments)
    assert service.wait() == 2
    check_line(service.errors, "")


def test_a_telemetry_variable_that_makes_no_sense_is_refused_in_one_line(
    services: Services, tmp_path, monkeypatch
):
    monkeypatch.setenv("OTEL_PROPAGATORS", "pigeon")
    service = services.start("session", f"--ledger={tmp_path}/ledger.db")
    assert service.wait() == 2
    check_line(service.errors, "Propagator pigeon not found")


@pytest.mark.parametrize(
    "arguments",
    [("up", "--target=no-such-folder"), ("session", "--target=127.0.0.1:1")],
    ids=["up", "session"],
)
def test_a_ledger_that_cannot_be_opened_is_refused_before_anything_is_waited_for(
    services: Services, arguments: tuple[str, ...]
):
    service = services.start(*arguments, "--listen=127.0.0.1:0", f"--ledger={services.folder}")
    assert service.wait() == 2
    check_line(service.errors, "name a file")


def test_a_damaged_ledger_is_refused_in_one_line(services: Services, target):
    (services.folder / "damaged.db").write_bytes(b"this is no ledger" * 100)
    service = services.session(target.wait_until_ready(), ledger="damaged")
    assert service.wait() == 2
    check_line(service.errors, "ledger")


def check_line(errors: str, word: str) -> None:
    """One line, of the command's own, with what matters in it."""
    (line,) = errors.splitlines()
    assert line.startswith("outrider-server: ")
    assert word in line
