"""A deterministic simulation of the whole system: virtual time, a network and crashes drawn from a seed.

Real is everything that decides: the servicers of session, target and draft with their streams and
interceptor, `RunningTurn`, `TurnOpener`, `LiveSessions`, `Targets`, `Drafts`, the decode loops, drafters,
pacing and n-grams, the links and wire conversions, `Engine` with slots, leases, epochs, parking and
admission, `VerifyJob` and `DraftJob`, the device thread's choice of steps, the ledger's SQL statements, and
the SDK down to its channel, with the resuming stream.

Stand-ins: the event loop's clock and its idle wait (`clock.py`); gRPC below the generated stubs, with its
network (`rpc.py`, `network.py`); the thread of the device thread and its wait for sessions that may return
(`device.py`); the model and its tensors (`model.py`); the ledger's disk and the way there (`ledger.py`).
Clock, chance, ids and channels are the product's arguments; only `planted.py` replaces what is its own.
Not simulated: HTTP/2 flow control by bytes, TLS, start-up, drain on SIGTERM, expiry of sessions.

A crash drops all tasks and memory of a process between two steps of its loop and runs no `finally`. What
has to hold is in `watch.py`, `guesses.py` and at the end of `run.py`; planted bugs are in `planted.py`.
"""
