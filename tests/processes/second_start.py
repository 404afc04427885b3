"""Starts an engine as a service does, and says what became of the process: `python second_start.py FOLDER`.

Prints JSON: the modules that only a first start needs, how the model was found, and resident bytes before the
engine, with it, and at most.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import sys
from pathlib import Path

from outrider_server.commands.engines import kept_start, started_host
from outrider_server.core.progress import silent
from outrider_server.engine.options import EngineOptions

UNWANTED = ("transformers", "torch._dynamo", "torch._inductor", "scipy", "sympy")
SERVICES = ("outrider_server.target.service", "outrider_server.draft.service")


def memory(field: str) -> int:
    """Bytes, of a field of /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def main(folder: Path) -> None:
    """Builds the engine and prints."""
    for service in SERVICES:
        importlib.import_module(service)
    before = memory("VmRSS")
    options = EngineOptions(folder=folder, slots=1, max_context_tokens=64, threads=1)
    host = await started_host(options, kept_start(silent))
    engine = host.engine
    told = {
        "modules": [name for name in UNWANTED if name in sys.modules],
        "model": type(engine.loaded).__name__,
        "arithmetic": engine.arithmetic,
        "before": before,
        "ready": memory("VmRSS"),
        "most": memory("VmHWM"),
    }
    print(json.dumps(told), flush=True)
    await host.stop()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
