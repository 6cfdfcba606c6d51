"""``python -P -m app``: the command line by which `cxr serve` starts its children."""

from app.cli import main

main()
