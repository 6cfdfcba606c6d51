"""Remove control characters from external text before it is displayed.

Control characters, 8-bit ones included, move a terminal's cursor or change its title and clipboard; bidirectional
control characters reorder the displayed text.

References
----------
ECMA-48 (C0, C1 and escape sequences); Unicode Standard Annex 9 (bidirectional control characters)
"""

from __future__ import annotations

import re
from typing import Final

# Whole escape sequences first, with their printable tails: CSI; OSC, DCS, SOS, PM, APC; two-byte sequences.
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
        Text of a peer, a file or a model package.
    lines
        Whether to keep line feeds and tabs (text of several lines).

    Returns
    -------
    str
        All other characters, unchanged, in any script.
    """
    plain = _SEQUENCES.sub("", text)
    return (_CONTROLS_WITHIN_LINES if lines else _CONTROLS).sub("", plain)
