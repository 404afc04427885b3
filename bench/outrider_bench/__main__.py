"""`python -m outrider_bench` is `outrider-server bench`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory: what happens to lie there is not to be run
    from outrider_server.__main__ import main

    sys.argv.insert(1, "bench")
    main()
