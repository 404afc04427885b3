"""How fast and how far to guess: windows, costs and agreement, estimated and chosen."""
