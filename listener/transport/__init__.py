"""Overrides of pynetdicom's internals for the listener, made for one version of it.

The changes and their reasons (each has a test):

* **The data set is written to the spool as it arrives.** pynetdicom copies every byte three to four times into
  memory, or into a temporary file that it flushes per fragment and leaves behind after a cut.
* **The threads of an association block until there is an event.** pynetdicom polls a thousand times a second in two
  threads per association.
* **A connection counts as an association after its A-ASSOCIATE-RQ,** so that silent connections, which wait for TLS
  handshake and first byte in their own threads, can't use up the limit.
* **One request at a time:** nothing is read while a request is served, which slows down a peer that doesn't wait for
  responses instead of filling queues.
* **No copy of the supported contexts per association, no garbage collection in the accept loop, no event handler
  that logs identifiers.**
* **A drain:** at a stop, associations end between two messages, after the response. ``shutdown`` of pynetdicom aborts
  them.
* **The ARTIM timer** uses the monotonic clock, and a timer that is stopped has not expired.
* **After our A-ABORT, rejection or release we wait for the peer to close,** so that it receives the PDU.
* **Unusual requests get a status.** pynetdicom ignores them, or ends the association.
* **Early rejection:** address and AE titles are checked before the request is decoded and before the association has
  threads.
* **Every wait has a time limit,** also that between A-ASSOCIATE-RQ and its answer (Sta3).

The overrides for associations that we request stand in ``inference/delivery/pynetdicom_fixes.py``, those that both need
in ``config/pynetdicom_overrides.py``, with the check of pynetdicom's version.

``server`` accepts connections, ``new_connection`` reads their first bytes, ``connection`` wraps the socket,
``upper_layer`` is the thread that reads and writes PDUs, ``messages`` assembles requests, ``association`` serves them.

References
----------
DICOM PS3.8 Section 9 (upper layer protocol), PS3.7 Section 9 (DIMSE-C)
"""

from __future__ import annotations

from listener.transport.server import ListenerServer
from listener.transport.timeouts import Timeouts

__all__ = ["ListenerServer", "Timeouts"]
