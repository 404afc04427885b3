"""What the device does next: which rows share a step, how much of each, and who is waited for."""
