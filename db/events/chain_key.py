"""Key of the event chain, created once, in a file outside the database's folder."""

from __future__ import annotations

import secrets
from pathlib import Path

from cxr.errors import StorageError
from db.disk import durable

KEY_BYTES = 32


def load_or_create_key(path: Path) -> bytes:
    """Read the key of the event chain; create it, readable by its owner only, if it is missing.

    Parameters
    ----------
    path
        The key file: 64 hexadecimal digits. Its folder is created too.

    Returns
    -------
    bytes
        32 bytes; the same for processes that start at once.

    Raises
    ------
    StorageError
        If the file can't be read or created, is accessible to other accounts, or contains no key.
    """
    try:
        if not path.exists():
            durable.make_folder(path.parent)
            durable.create_once(path, secrets.token_bytes(KEY_BYTES).hex().encode("ascii"))
        mode = path.stat().st_mode & 0o077
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"The key of the audit log can't be read ({type(error).__name__}): check audit.key_file and its owner."
        ) from error
    if mode:
        raise StorageError("The key of the audit log is open to other accounts: `chmod 600` the file.")
    return _parse(text)


def _parse(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise StorageError(
            f"The key file of the audit log does not hold {KEY_BYTES * 2} hexadecimal digits: restore your copy."
        )
    return key
