"""Counts with their noun, as messages print them."""

from __future__ import annotations


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return a count and its noun: ``1 image``, ``2 images``.

    Parameters
    ----------
    count
        0 or more.
    singular
        Noun for one.
    plural
        Noun for any other count; None: ``singular`` with an s.
    """
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"
