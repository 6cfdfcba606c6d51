"""Storage Commitment as SCU: request a PACS to commit to objects, and receive its reports.

The peer reports on a request (N-ACTION) by N-EVENT-REPORT, on the same association or on one that it
opens to us, seconds or hours later. The inbox receives both.

References
----------
DICOM PS3.4 Annex J (Push Model), Table J.3-2 and Section C.14.1.1 of PS3.3 (Failure Reason)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification

from cxr.errors import AccessRefused
from inference.delivery.association import status_of
from inference.delivery.destination_client import OutgoingReport, Presence
from inference.delivery.pynetdicom_fixes import ReportServer

if TYPE_CHECKING:
    from pynetdicom.association import Association

COMMITMENT_SOP_CLASS = str(StorageCommitmentPushModel)
_REQUEST = 1  # Action Type ID
_SUCCESS = 0x0000
_NO_SUCH_INSTANCE = 0x0112
_CLASS_CONFLICT = 0x0119
_NOT_AUTHORIZED = 0x0124
_CLASS_NOT_SUPPORTED = 0x0122
_MAX_TRANSACTIONS = 10_000  # whose report may still arrive


class CommitmentInbox:
    """Reports of peers on our transactions; used by several threads.

    Reports on other transactions are ignored: the Transaction UIDs of ours are random.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requested: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._answers: dict[str, Presence] = {}
        # Answers whose N-EVENT-REPORT-RSP is not sent yet: the association must not be released before.
        self._unconfirmed: WeakKeyDictionary[Association, dict[str, Presence]] = WeakKeyDictionary()

    @property
    def handlers(self) -> list[tuple[Any, ...]]:
        """Event handlers for an association on which reports may arrive."""
        return [(evt.EVT_N_EVENT_REPORT, self.on_event_report), (evt.EVT_PDU_SENT, self.on_pdu_sent)]

    def open_transaction(self, sop_instance_uids: Iterable[str]) -> str:
        """Store the objects of a request and return its new Transaction UID."""
        transaction_uid = f"2.25.{uuid4().int}"
        with self._changed:
            self._requested[transaction_uid] = frozenset(sop_instance_uids)
            while len(self._requested) > _MAX_TRANSACTIONS:
                self._requested.popitem(last=False)
        return transaction_uid

    def wait_for_answers(self, sop_instance_uids: Iterable[str], *, timeout_s: float) -> dict[str, Presence]:
        """Wait until all these objects are reported on, at most `timeout_s`; each answer is returned once."""
        uids = set(sop_instance_uids)
        with self._changed:
            self._changed.wait_for(lambda: uids <= self._answers.keys(), timeout_s)
            return {uid: self._answers.pop(uid) for uid in uids & self._answers.keys()}

    def on_event_report(self, event: evt.Event) -> tuple[int, None]:
        """Handle one N-EVENT-REPORT (event handler of pynetdicom).

        A report on an unknown transaction is answered with Success as well: after a failure the peer
        would repeat it for ever.
        """
        answers = _read_report(event.event_information)
        transaction_uid = str(event.event_information.get("TransactionUID", ""))
        with self._changed:
            requested = self._requested.get(transaction_uid, frozenset())
            self._unconfirmed[event.assoc] = {uid: answer for uid, answer in answers.items() if uid in requested}
        return _SUCCESS, None

    def on_pdu_sent(self, event: evt.Event) -> None:
        """Publish the answers of an association once the response is sent (event handler of pynetdicom)."""
        with self._changed:
            self._answers.update(self._unconfirmed.pop(event.assoc, {}))
            self._changed.notify_all()


def request_commitment(association: Association, reports: Sequence[OutgoingReport], inbox: CommitmentInbox) -> bool:
    """Request Storage Commitment for objects by N-ACTION.

    Parameters
    ----------
    association
        With an accepted context for the Push Model, and with the inbox as handler of N-EVENT-REPORT.
    reports
        With the UIDs under which they were stored.
    inbox
        Receives the report.

    Returns
    -------
    bool
        Whether the peer accepted the request.

    Raises
    ------
    AccessRefused
        If the peer ends the association instead of a response, as Orthanc does for an unknown AE title, or
        responds with the status "Not Authorized".
    PeerUnreachable
        If the peer does not answer.
    """
    request = Dataset()
    request.TransactionUID = inbox.open_transaction(report.sop_instance_uid for report in reports)
    request.ReferencedSOPSequence = DicomSequence([_reference(report) for report in reports])
    response, _ = association.send_n_action(
        request, _REQUEST, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    if "Status" not in response and association.dul.is_ended_by_peer:
        raise AccessRefused(
            "The destination accepted the association and ended it at our Storage Commitment request: enter our AE "
            "title, address and port there, or set verify of this destination to find."
        )
    status = status_of(response)
    if status == _NOT_AUTHORIZED:
        raise AccessRefused("The destination does not allow us Storage Commitment: see its settings.", status=status)
    return status == _SUCCESS


class CommitmentServer:
    """Accepts the associations that peers open to send their reports.

    Parameters
    ----------
    host, port
        Address and TCP port to listen on.
    ae_title
        Our AE title, as configured at the peer.
    inbox
        Receives the reports.

    Raises
    ------
    OSError
        If the port is in use.
    """

    def __init__(self, host: str, port: int, *, ae_title: str, inbox: CommitmentInbox) -> None:
        entity = AE(ae_title=ae_title)
        entity.acse_timeout = 10.0
        # In this service the peer that opens the association is the SCP.
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        entity.add_supported_context(Verification)
        self._server = ReportServer(entity, (host, port), inbox.handlers)

    def close(self) -> None:
        """Stop listening and end open associations."""
        self._server.close()


def _reference(report: OutgoingReport) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = report.sop_class_uid
    reference.ReferencedSOPInstanceUID = report.sop_instance_uid
    return reference


def _read_report(report: Dataset) -> Mapping[str, Presence]:
    """Read the answer about each object from its sequences; the Event Type ID is ignored."""
    answers = {}
    for item in report.get("ReferencedSOPSequence") or ():
        answers[str(item.get("ReferencedSOPInstanceUID", ""))] = Presence.PRESENT
    for item in report.get("FailedSOPSequence") or ():
        answers[str(item.get("ReferencedSOPInstanceUID", ""))] = _failure(item.get("FailureReason"))
    return answers


def _failure(reason: int | None) -> Presence:
    if reason in (_NO_SUCH_INSTANCE, _CLASS_CONFLICT):
        return Presence.ABSENT
    return Presence.UNANSWERABLE if reason == _CLASS_NOT_SUPPORTED else Presence.UNKNOWN
