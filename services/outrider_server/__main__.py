"""`python -m outrider_server` is `outrider-server`."""

from .cli import main

main()
