"""``python -P -m app``: how `cxr serve` starts its children, wherever the console script lies."""

from app.cli import main

main()
