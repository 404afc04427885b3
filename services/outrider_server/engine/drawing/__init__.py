"""How tokens are drawn: shared noise, filters, penalties."""
