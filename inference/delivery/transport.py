"""What pynetdicom leaves open on the calling side: its internals, overridden here and nowhere else.

The version is pinned in pyproject.toml. In 3.0.4 ``AssociationSocket._shutdown_socket`` does not close
a socket that never connected, so that every call to a peer that is down leaves a descriptor to the
garbage collector; and no write ever times out, so that a peer that stops to read stops the caller.
``DIMSEServiceProvider`` serves an N-EVENT-REPORT in a thread of its own, which at its end marks the
association's thread as running though that may wait: a release or a request that waits for it to
pause then waits for ever.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket


class CallingEntity(AE):  # type: ignore[misc]
    """An application entity whose calls end."""

    write_timeout_s: float = 30.0

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        # AE.associate makes its own class, and this is the last moment before the association's thread starts
        assoc.__class__ = _CallingAssociation
        made = _ClosingSocket(assoc, address=address)
        made.tls_args = tls_args
        # seconds and microseconds; TLS wraps the same descriptor, so that it holds there as well
        bound = struct.pack("@ll", int(self.write_timeout_s) + 1, 0)
        made.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
        return made


class _CallingAssociation(Association):  # type: ignore[misc]
    """Only its own thread says whether it waits, or whoever ends it."""

    @property
    def _is_paused(self) -> bool:
        return bool(self.__dict__["_is_paused"])

    @_is_paused.setter
    def _is_paused(self, paused: bool) -> None:
        if threading.current_thread() is self or self._kill:
            self.__dict__["_is_paused"] = paused


class _ClosingSocket(AssociationSocket):  # type: ignore[misc]
    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        if self.socket is not None:
            self.socket.close()
