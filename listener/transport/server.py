"""Server of one port: accepts connections, each with its own thread until its association begins."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time

from pynetdicom import AE
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from config.certificates import Certificates
from config.logs import get_logger
from listener.admission import SilentConnections
from listener.service import StorageService
from listener.transport.association import ListenerAssociation
from listener.transport.new_connection import NewConnection
from listener.transport.timeouts import Timeouts

log = get_logger(__name__)


class _ConnectionHandler(RequestHandler):
    """Handles a new connection, in its own thread, until its association begins."""

    server: ListenerServer

    def handle(self) -> None:
        server = self.server
        server.silent.add(self.request)
        connection = NewConnection(self.request, self.remote.address, server.service, server.timeouts)
        head = None if server.draining.is_set() else connection.read_head()
        if head is None:
            server.silent.remove(self.request)
            server.shutdown_request(self.request)
            return
        association = ListenerAssociation(server, self.request, head)
        association.name = "AcceptorThread"  # pynetdicom finds associations by it
        association.acceptor.maximum_length = server.ae.maximum_pdu_size
        association.acceptor.ae_title = server.ae_title
        association.acceptor.address_info = self.local
        association.acceptor.implementation_version_name = server.ae.implementation_version_name
        association.requestor.address_info = self.remote
        association.start()


class ListenerServer(ThreadedAssociationServer):
    """Accepts connections on one port.

    Parameters
    ----------
    ae
        Our AE title, implementation identification and largest PDU.
    address
        Address and port to listen on.
    service
        Admits associations and stores objects.
    timeouts
        Time limits for peers.
    silent
        Counts connections without an association; shared by all ports.
    tls
        Certificates of a TLS port; None: no TLS.
    shares_port
        Whether other processes listen on the same port (SO_REUSEPORT); the kernel distributes the
        connections among them.

    Raises
    ------
    OSError
        If the address can't be bound.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        service: StorageService,
        timeouts: Timeouts,
        silent: SilentConnections,
        tls: Certificates | None = None,
        *,
        shares_port: bool = False,
    ) -> None:
        self.service = service
        self.timeouts = timeouts
        self.silent = silent
        self.draining = threading.Event()
        self.associations: set[ListenerAssociation] = set()
        self._shares_port = shares_port
        # The supported contexts are set per association, from the service.
        self._certificates = tls
        super().__init__(ae, address, ae.ae_title, [], request_handler=_ConnectionHandler)

    def server_bind(self) -> None:
        """Bind, alone or beside other processes."""
        if self._shares_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def start(self) -> None:
        """Accept connections, in a thread."""
        self.ae._servers.append(self)
        threading.Thread(target=self.serve_forever, args=(0.1,), name="accept", daemon=True).start()

    def stop_accepting(self) -> None:
        """Close the port, and end each association once no message is in flight."""
        if self.draining.is_set():
            return
        self.draining.set()
        self.shutdown()
        for association in list(self.associations):
            association.dul.wake()

    def cut(self) -> None:
        """End every association now."""
        for association in list(self.associations):
            association.dul.socket.cut()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; its own thread does the TLS handshake."""
        try:
            connection, address = self.socket.accept()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                log.exception("too_many_open_files", limit=len(self.associations))
                time.sleep(0.1)  # the connection stays in the backlog: avoid a busy loop
            raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._certificates is not None:
            context = self._certificates.context()
            connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def service_actions(self) -> None:
        """Do nothing: pynetdicom collects garbage here, which pauses every association."""

    def handle_error(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        """Log a connection's failure without its address."""
        log.error("connection_failed", exc_info=sys.exc_info())
        self.silent.remove(request)

    def _bind_defaults(self) -> None:
        """Do nothing: associations bind their handlers."""
