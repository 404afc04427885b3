"""A model's tensors over the pages of its GGUF files, each as the model has it."""

from __future__ import annotations

from pathlib import Path

import torch
from gguf.constants import GGMLQuantizationType

from ..model.quantized_weights import QuantizedWeight, weight_of_blocks
from ..model.weight_files import let_go_pages
from .blocks import PACKED, row_bytes, widened
from .files import GgufFiles
from .layouts import added, row_order
from .metadata import Metadata


class GgufWeights:
    """See `model.weight_files.Weights`. Names are the file's."""

    def __init__(self, files: GgufFiles) -> None:
        """Raises RuntimeError for a file that cannot be mapped."""
        self._tensors = files.tensors
        self._metadata = Metadata(files.path, files.metadata)
        self._pages: dict[Path, torch.Tensor] = {path: _mapped(path) for path in files.paths}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's, without reading it."""
        return self._tensors[name].shape

    def kind(self, name: str) -> GGMLQuantizationType:
        """A tensor's type in the file."""
        return self._tensors[name].kind

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor: over the file's own pages where it is of plain numbers in the model's order, else widened
        to float32. Raises KeyError."""
        return self._widened(name, self._rows(name))

    def first_row(self, name: str, index: int | None) -> torch.Tensor:
        """The first row [C] of a matrix, or of one of a stack. Raises KeyError or IndexError."""
        rows = self._rows(name)
        matrix = rows if index is None else rows[index]
        return self._widened(name, matrix[:1])[0]

    def quantized(self, name: str) -> QuantizedWeight:
        """See `Weights`."""
        kind = self._tensors[name].kind
        if kind not in PACKED:
            raise KeyError(name)
        return weight_of_blocks(self._rows(name), kind.name)

    def blocks(self, name: str) -> torch.Tensor:
        """A matrix's rows as the file has them, in the model's order: [N, bytes] uint8. Raises KeyError."""
        return self._rows(name)

    def let_go(self, name: str) -> None:
        """Gives back the pages that this tensor alone is on. Reading it again reads the file again."""
        let_go_pages(self._held(name))

    def _widened(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        values = widened(rows, self._tensors[name].kind)
        more = added(self._metadata, name)
        return values.float() - more if more else values

    def _rows(self, name: str) -> torch.Tensor:
        """[..., R, bytes] uint8, or [bytes] of a tensor of one dimension."""
        held, shape = self._held(name), self._tensors[name].shape
        order = row_order(self._metadata, name, shape[0])
        if order is None:
            return held
        if len(shape) == 1:
            return held.view(len(order), -1)[order].flatten()
        return held[order]

    def _held(self, name: str) -> torch.Tensor:
        """A tensor's bytes, in the file's order."""
        tensor = self._tensors[name]
        *rows, columns = tensor.shape
        held = self._pages[tensor.file][tensor.begin : tensor.begin + tensor.nbytes]
        return held.view(*rows, row_bytes(tensor.kind, columns))


def _mapped(path: Path) -> torch.Tensor:
    """A file's bytes, of which none is read."""
    size = path.stat().st_size
    storage = torch.UntypedStorage.from_file(str(path), False, size)
    whole: torch.Tensor = torch.empty(0, dtype=torch.uint8)
    return whole.set_(storage, 0, (size,))  # type: ignore[call-overload, no-any-return]
