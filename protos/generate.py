"""Generates the Python stubs from the protos, or checks that those in the tree are fresh.

python protos/generate.py                write client/outrider/v1
python protos/generate.py --check        exit 1 if what is there differs
python protos/generate.py --image FILE   write the protos with their comments and imports, as buf lints them
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
STUBS = PROTOS.parent / "client" / "outrider" / "v1"
INCLUDE = (
    PROTOS,
    Path(protoc.__file__).parent / "_proto",  # google/protobuf
    Path(status_pb2.__file__).parents[2],  # google/rpc
)


def compile_protos(*outputs: str) -> None:
    """Runs protoc over every proto."""
    sources = sorted(str(path) for path in PROTOS.glob("outrider/v1/*.proto"))
    include = [f"-I{folder}" for folder in INCLUDE]
    if protoc.main(["protoc", *include, *outputs, *sources]) != 0:
        raise SystemExit("protoc failed; its message is above")


def generate(into: Path) -> None:
    """Writes the stubs of every proto below `into`, which gets outrider/v1/ as its folder."""
    compile_protos(f"--python_out={into}", f"--pyi_out={into}", f"--grpc_python_out={into}")


def stale(fresh: Path) -> list[str]:
    """Names the stubs in the tree that are missing, left over or different from those in `fresh`."""
    expected = {path.name for path in fresh.glob("*_pb2*")}
    present = {path.name for path in STUBS.glob("*_pb2*")}
    _, different, _ = filecmp.cmpfiles(fresh, STUBS, sorted(expected & present), shallow=False)
    return sorted((expected ^ present) | set(different))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--image", metavar="FILE", help="write a descriptor set instead")
    options = parser.parse_args()
    if options.image:
        image = f"--descriptor_set_out={options.image}"
        compile_protos("--include_imports", "--include_source_info", image)
        return
    if not options.check:
        generate(STUBS.parents[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        names = stale(Path(folder) / "outrider" / "v1")
    if names:
        sys.exit(f"stale stubs: {', '.join(names)}; run `make proto`")


if __name__ == "__main__":
    main()
