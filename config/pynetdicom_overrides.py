"""What both overrides of pynetdicom share: the listener's, and those of the associations that we request.

The rest of the overrides stands where it is needed, in ``listener/transport/`` and
``inference/delivery/pynetdicom_fixes.py``. All of them are made for one version.
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
    """Refuse another version of pynetdicom than the one whose internals are overridden.

    Parameters
    ----------
    installed
        The version that is installed.

    Raises
    ------
    RuntimeError
        If it is another one.
    """
    if installed != MADE_FOR:
        raise RuntimeError(
            f"pynetdicom {installed} is installed; listener.transport and inference.delivery.pynetdicom_fixes override "
            f"internals of {MADE_FOR}: install that version (make install)."
        )


def acknowledge_at_once(connection: socket.socket) -> None:
    """Acknowledge what has arrived, where the system lets a program ask for it; this lasts for one time.

    The kernel would wait 40 ms for an answer to send the acknowledgement with, and a peer whose connection has
    Nagle's algorithm (RFC 9293 Section 3.7.4; DCMTK's default) sends the end of a message no earlier.
    """
    if _CAN_ACKNOWLEDGE:
        with suppress(OSError):  # the peer has gone: the next read returns its end
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def cut(connection: socket.socket | None) -> None:
    """End a connection that another thread reads from or writes to: that thread sees its end, and closes it.

    Parameters
    ----------
    connection
        None, or one that has ended: nothing happens.
    """
    if connection is not None:
        with suppress(OSError):
            # Of the socket itself: a TLS socket's own shutdown would drop its TLS state under the reader.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
