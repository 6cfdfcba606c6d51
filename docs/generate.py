"""Write the generated pages: ``make docs``; with --check, report pages that differ."""

from __future__ import annotations

import sys
from pathlib import Path

import scaling
from command_page import command_page
from tables import filled

from config.example import settings_page

DOCS = Path(__file__).resolve().parent


def pages() -> dict[Path, str]:
    """Return the text of every page that is generated, in whole or in its tables."""
    written = {DOCS / "commands.md": command_page(), DOCS / "settings.md": settings_page()}
    written[DOCS / "scaling.md"] = scaling.filled((DOCS / "scaling.md").read_text(encoding="utf-8"))
    by_hand = [path for path in sorted(DOCS.glob("*.md")) if path not in written]
    texts = {path: path.read_text(encoding="utf-8") for path in by_hand}
    return written | {path: filled(text) for path, text in texts.items() if "<!-- table: " in text}


def main() -> None:
    """Write the pages that differ; with --check, name them and exit with 1."""
    stale = [
        (path, text) for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"docs/{path.name} differs from the code: run `make docs`" for path, _ in stale) or 0)
    for path, text in stale:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
