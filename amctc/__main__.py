"""``python -m amctc``: the command line."""

from amctc.cli import main

main()
