"""Services killed and frozen at random moments of turns, under load: nothing that was seen may change."""
