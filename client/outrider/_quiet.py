"""Keeps gRPC's own log off the user's terminal. Imported before anything that imports gRPC.

What concerns a call is raised as an exception. Whoever wants the log sets GRPC_VERBOSITY.
"""

import os

_VARIABLE = "GRPC_VERBOSITY"

if _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = "NONE"
    try:
        import grpc  # noqa: F401 - it reads the variable now, and never again
    finally:
        del os.environ[_VARIABLE]
