"""Three services under messages that nobody should send: real servers, tiny models, seeded disorder.

`python -m tests.fuzz --messages 50000 --seed 1` sends valid messages that are spoilt field by field, frames
that are no messages, streams out of order, calls that are cancelled anywhere and deadlines that have passed.
No call may hang, none may be answered with a code that its method does not document, and after each batch
everything has to be as before: slots free, no turn, task, descriptor or byte left over, the same tokens.
"""
