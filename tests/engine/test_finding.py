"""Where a model's matrices stand in a checkpoint: whatever the library did to them, and bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from outrider_server.engine.model.weight_files import WeightFiles
from outrider_server.engine.program.computations import StoredPart
from outrider_server.engine.program.finding import Finder, NotStored
from outrider_server.engine.program.stored import read_matrix
from safetensors.torch import save_file


def matrices(*sizes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator).to(torch.bfloat16)


def zeros_first() -> torch.Tensor:
    """Its first row, that of a padding token for example, is like another's."""
    matrix = matrices(6, 8, seed=3)
    matrix[0] = 0
    return matrix


CHECKPOINT = {
    "gate": matrices(4, 8),
    "up": matrices(5, 8, seed=1),
    "stacked": matrices(3, 4, 8, seed=2),
    "zeros": torch.zeros((2, 8), dtype=torch.bfloat16),
    "padded": zeros_first(),
    "norm": matrices(8, seed=5),
}


@pytest.fixture
def files(tmp_path: Path) -> WeightFiles:
    """The checkpoint in two files."""
    names = list(CHECKPOINT)
    for number, part in enumerate((names[:2], names[2:])):
        save_file({name: CHECKPOINT[name] for name in part}, tmp_path / f"{number}.safetensors")
    return WeightFiles(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("matrix", "parts"),
    [
        (CHECKPOINT["gate"], [StoredPart("gate")]),
        (CHECKPOINT["up"].t(), [StoredPart("up", None, True)]),
        (CHECKPOINT["up"].t().contiguous(), [StoredPart("up", None, True)]),
        (CHECKPOINT["stacked"][1], [StoredPart("stacked", 1)]),
        (CHECKPOINT["stacked"][2].t(), [StoredPart("stacked", 2, True)]),
        (CHECKPOINT["padded"], [StoredPart("padded")]),
        (
            torch.cat((CHECKPOINT["gate"], CHECKPOINT["up"])),
            [StoredPart("gate"), StoredPart("up")],
        ),
        (CHECKPOINT["gate"].float(), [StoredPart("gate")]),
    ],
)
def test_a_matrix_is_found_and_read_as_it_is(
    files: WeightFiles, matrix: torch.Tensor, parts: list[StoredPart]
) -> None:
    found = Finder(files).find(matrix)
    assert list(found.parts) == parts
    read = read_matrix(files, found)
    assert read.dtype == matrix.dtype
    assert torch.equal(read, matrix)


def one_bit_off() -> torch.Tensor:
    matrix = CHECKPOINT["up"].clone()
    matrix.view(torch.int16)[4, 7] ^= 1
    return matrix


def other_zero() -> torch.Tensor:
    """Equal, and not the same bits."""
    return CHECKPOINT["zeros"] * torch.tensor([[1.0], [-1.0]], dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "matrix",
    [
        one_bit_off(),
        other_zero(),
        CHECKPOINT["gate"][1:],
        CHECKPOINT["gate"][:3],
        CHECKPOINT["gate"][:, :6],
        torch.cat((CHECKPOINT["gate"], CHECKPOINT["up"][1:])),
        CHECKPOINT["gate"] * 2,
    ],
)
def test_what_differs_in_a_bit_or_a_row_is_not_found(
    files: WeightFiles, matrix: torch.Tensor
) -> None:
    with pytest.raises(NotStored):
        Finder(files).find(matrix)


def test_no_number_is_found_as_itself(tmp_path: Path) -> None:
    broken = torch.full((2, 8), float("nan"), dtype=torch.bfloat16)
    save_file({"broken": broken}, tmp_path / "model.safetensors")
    finder = Finder(WeightFiles([tmp_path / "model.safetensors"]))
    assert finder.find(broken).parts == (StoredPart("broken"),)


def resident(path: Path) -> int:
    """Kibibytes of a file that this process has in memory."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            counts = words[-1] == str(path)
        elif counts and words[0] == "Rss:":
            total += int(words[1])
    return total


def test_pages_are_let_go_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    wanted = matrices(1024, 1024)
    save_file({"large": wanted, "small": matrices(4)}, path)
    files = WeightFiles([path])
    assert torch.equal(files.tensor("large"), wanted)
    assert resident(path) >= 2048
    files.let_go("large")
    assert resident(path) < 256
    assert torch.equal(files.tensor("large"), wanted)
    assert torch.equal(files.tensor("small"), matrices(4))
