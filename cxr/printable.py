"""Text of others for a terminal, a table or a page: without control characters.

Control characters, 8-bit ones too, move a terminal's cursor, change its title or its clipboard; marks of writing
direction make a text read as another.

References
----------
ECMA-48 (C0, C1 and escape sequences); Unicode Standard Annex 9 (bidirectional control characters)
"""

from __future__ import annotations

import re
from typing import Final

# Whole escape sequences first, so that their printable tails go too: CSI, OSC and its like, two-byte ones.
_SEQUENCES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROLS_WITHIN_LINES: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text without escape sequences and control characters.

    Parameters
    ----------
    text
        Of a peer, a file or a package of others.
    lines
        Whether line feeds and tabs stay: for a text of several lines.

    Returns
    -------
    str
        Every other character as it is, in any script.
    """
    plain = _SEQUENCES.sub("", text)
    return (_CONTROLS_WITHIN_LINES if lines else _CONTROLS).sub("", plain)
