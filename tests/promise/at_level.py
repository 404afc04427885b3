"""A part of the promise, in a process of its own, on the kernels of the level that OUTRIDER_ISA names.

Prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from outrider_server.engine.kernels.library import kernel_library
from outrider_server.models import DRAFT_FOLDER

from .conftest import save_untrained_draft, started_host, target_host
from .test_promise import crowds, keep_promise, single_cases, window_cases


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        folders = {"bundled": DRAFT_FOLDER, "untrained": save_untrained_draft(Path(folder))}
        drafts = {
            name: await started_host(draft, dtype="bfloat16", width=2, compile_mode="auto")
            for name, draft in folders.items()
        }
    target = await target_host("bfloat16", compile_mode="auto")
    engine = target.engine
    cases = single_cases()[::17] + window_cases()[::3]
    bench = await keep_promise(target, drafts, cases, crowds()[:1])
    for host in drafts.values():
        await host.stop()
    found = {
        "level": kernel_library().level_name(),
        "packed": engine.runner.layout.packed,
        "interchangeable": engine.audit.all_interchangeable,
        "compared": bench.compared,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
