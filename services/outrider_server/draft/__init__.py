"""The draft service: the small model, which guesses what the target will decide."""
