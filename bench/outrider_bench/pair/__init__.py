"""The benchmark `pair`: what a draft would be worth to a target, foretold before anything is deployed.

In this order: `replies.py` has the target answer and the draft guess, `timing.py` times both models,
`windows.py` asks the pacing's formulas, `replay.py` plays the replies through the session service's own loop
in virtual time, and `tables.py` says what was found.
"""
