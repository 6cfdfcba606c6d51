"""Every override of pynetdicom's internals, and nothing else; made for one version of it.

What is changed, and why (each has a test):

* **A data set goes to the spool as it arrives.** pynetdicom copies every byte three to four times
  into memory, or into a temporary file that it flushes per fragment and leaves behind after a cut.
* **The threads of an association sleep until there is something to do.** pynetdicom polls a thousand
  times a second in two threads per association.
* **A connection counts as an association when it has asked for one,** so that silent ones, whose
  TLS handshake and first byte are waited for in a thread of their own, can't use up the limit.
* **One request at a time:** nothing is read while a request is served, which slows down a peer that
  doesn't wait for answers instead of filling queues.
* **No copy of the supported contexts per association, no garbage collection in the accept loop, no
  handler that logs identifiers.**
* **A drain:** associations end between two messages, after the answer is out. ``shutdown`` of
  pynetdicom aborts them.
* **The ARTIM timer** goes by a clock that nobody sets, and a timer that is stopped has not expired.
* **A peer learns what became of it:** after our A-ABORT, rejection or release we wait for it to close.
* **Odd requests get a status.** pynetdicom ignores them, or ends the association.
* **A refused peer costs nothing:** address and AE titles are looked at before the request is decoded, and before
  the association has threads.
* **Every wait has an end,** also the one between an A-ASSOCIATE-RQ and its answer (Sta3).

What the associations that we request need as well stands in ``config.pynetdicom_overrides``: the tolerant reading
of A-ASSOCIATE PDUs, and the check of pynetdicom's version.

``connection`` wraps the socket, ``upper_layer`` is the thread that reads and writes PDUs,
``messages`` puts requests together, ``association`` serves them, ``server`` accepts connections, ``opening`` reads
their first bytes.

References
----------
DICOM PS3.8 Section 9 (upper layer protocol), PS3.7 Section 9 (DIMSE-C)
"""

from __future__ import annotations

from listener.transport.server import ListenerServer

__all__ = ["ListenerServer"]
