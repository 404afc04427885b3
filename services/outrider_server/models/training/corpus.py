"""The training text: Python's own standard library, as installed where this runs.

Owns which files are read, how they are split, and how they become one stream of
token ids. Knows nothing of models.
"""

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from tokenizers import Tokenizer

HELD_OUT_PER_MILLE = 20
SMALLEST_FILE_BYTES = 200

# Tables of data, files that record the build machine, and Python 2 fixtures.
EXCLUDED_PATTERNS = (
    "site-packages/*",
    "encodings/*",
    "pydoc_data/*",
    "lib2to3/tests/data/*",
    "test/encoded_modules/*",
    "_sysconfigdata*",
    "html/entities.py",
    "stringprep.py",
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the corpus."""

    name: str
    """Path relative to the standard library, with forward slashes."""
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The standard library, split by file. No text is in both parts."""

    training: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...]


def is_held_out(name: str) -> bool:
    """Whether a file is kept from training; depends on its relative path alone."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 1000 < HELD_OUT_PER_MILLE


def load_corpus(folder: Path | None = None) -> Corpus:
    """Read and split the Python files under `folder` (default: the standard library)."""
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    files = tuple(_unique_files(root))
    return Corpus(
        training=tuple(file for file in files if not is_held_out(file.name)),
        held_out=tuple(file for file in files if is_held_out(file.name)),
    )


def encode_files(
    tokenizer: Tokenizer, files: tuple[SourceFile, ...], document_start: int, seed: int
) -> torch.Tensor:
    """Return all files as one stream, `[tokens] int64`, each after `document_start`.

    The order is shuffled by `seed` so that neighbours in the stream are unrelated.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(files), generator=generator).tolist()
    encodings = tokenizer.encode_batch([files[index].text for index in order])
    parts = [torch.tensor([document_start, *encoding.ids]) for encoding in encodings]
    return torch.cat(parts)


def _unique_files(root: Path) -> Iterator[SourceFile]:
    seen: set[bytes] = set()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if digest in seen or len(content) < SMALLEST_FILE_BYTES or _is_excluded(name):
            continue
        seen.add(digest)
        try:
            yield SourceFile(name, content.decode("utf-8"))
        except UnicodeDecodeError:
            continue


def _is_excluded(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in EXCLUDED_PATTERNS)
