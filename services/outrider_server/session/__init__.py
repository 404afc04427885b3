"""The session service: text, ledger, the decode loop and the public API. Reaches no torch."""
