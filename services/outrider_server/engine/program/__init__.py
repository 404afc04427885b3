"""A model's forward pass, recorded once and replayed by the engine's own code: how a step runs on a CPU."""
