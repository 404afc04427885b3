"""What every part of the system speaks of: tokens, draws, models, errors. Standard library only."""
