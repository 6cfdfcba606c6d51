"""Shared part of the overrides of pynetdicom, with the check of its version.

The others stand in ``listener/transport/`` (associations that peers request of the listener) and in
``inference/delivery/pynetdicom_fixes.py`` (associations that we request, and those for commitment reports).
"""

from __future__ import annotations

import socket
from contextlib import suppress

import pynetdicom

MADE_FOR = "3.0.4"
"""The version of pynetdicom whose internals are overridden."""

MAX_CONTROL_PDU_BYTES = 1024 * 1024
"""Longest PDU, P-DATA-TF aside, that is read; an A-ASSOCIATE-RQ with 128 contexts of 45 syntaxes has 200 KB."""

_CAN_ACKNOWLEDGE = hasattr(socket, "TCP_QUICKACK")  # Linux


def check_version(installed: str = pynetdicom.__version__) -> None:
    """Refuse a version of pynetdicom other than `MADE_FOR`.

    Parameters
    ----------
    installed
        The installed version.

    Raises
    ------
    RuntimeError
        If it is another version.
    """
    if installed != MADE_FOR:
        raise RuntimeError(
            f"pynetdicom {installed} is installed; listener.transport and inference.delivery.pynetdicom_fixes override "
            f"internals of {MADE_FOR}: install that version (make install)."
        )


def acknowledge_at_once(connection: socket.socket) -> None:
    """Send the TCP acknowledgement of received data at once, where the system supports it (Linux); not permanent.

    The kernel delays an acknowledgement by 40 ms to send it with data, and a peer with Nagle's algorithm (RFC 9293
    Section 3.7.4; DCMTK's default) does not send the end of a message before it.
    """
    if _CAN_ACKNOWLEDGE:
        with suppress(OSError):  # the peer has closed: the next read shows it
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def cut(connection: socket.socket | None) -> None:
    """Shut a connection down that another thread uses: that thread sees its end and closes it.

    Parameters
    ----------
    connection
        The connection; None or one that has ended is ignored.
    """
    if connection is not None:
        with suppress(OSError):
            # Not SSLSocket.shutdown, which would drop the TLS state while the other thread reads.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
