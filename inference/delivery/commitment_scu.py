"""Storage Commitment as SCU: a PACS takes responsibility for objects, and says so when it has them safe.

The request (N-ACTION) is answered by a later N-EVENT-REPORT, on the same association or on one that
the peer opens to us, seconds or hours afterwards. The inbox takes both.

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
from inference.delivery.carrier import Parcel, Presence
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
_REMEMBERED = 10_000  # transactions whose answer may still come


class CommitmentInbox:
    """What peers reported about the transactions that we opened; used from several threads.

    Only transactions of ours count: their UIDs are random, and nobody else knows them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._answers: dict[str, Presence] = {}
        # Read, but our response is not out yet: whoever is told of them may release the association.
        self._unconfirmed: WeakKeyDictionary[Association, dict[str, Presence]] = WeakKeyDictionary()

    @property
    def handlers(self) -> list[tuple[Any, ...]]:
        """What an association needs that reports may come in on."""
        return [(evt.EVT_N_EVENT_REPORT, self.on_event_report), (evt.EVT_PDU_SENT, self.on_pdu_sent)]

    def open_transaction(self, sop_instance_uids: Iterable[str]) -> str:
        """Remember what a request is about and return its Transaction UID."""
        transaction_uid = f"2.25.{uuid4().int}"
        with self._changed:
            self._asked[transaction_uid] = frozenset(sop_instance_uids)
            while len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
        return transaction_uid

    def take(self, sop_instance_uids: Iterable[str], *, timeout_s: float) -> dict[str, Presence]:
        """Wait until all of these objects are reported on, or the time is over; answers are given once."""
        wanted = set(sop_instance_uids)
        with self._changed:
            self._changed.wait_for(lambda: wanted <= self._answers.keys(), timeout_s)
            return {uid: self._answers.pop(uid) for uid in wanted & self._answers.keys()}

    def on_event_report(self, event: evt.Event) -> tuple[int, None]:
        """Read one N-EVENT-REPORT; a handler of pynetdicom's.

        A report on a transaction that is not ours, or forgotten, is answered with Success as well:
        a peer that gets a failure would repeat it for ever.
        """
        answers = _read_report(event.event_information)
        transaction_uid = str(event.event_information.get("TransactionUID", ""))
        with self._changed:
            asked = self._asked.get(transaction_uid, frozenset())
            self._unconfirmed[event.assoc] = {uid: answer for uid, answer in answers.items() if uid in asked}
        return _SUCCESS, None

    def on_pdu_sent(self, event: evt.Event) -> None:
        """Count the reports of an association, now that the peer has the response; a handler of pynetdicom's."""
        with self._changed:
            self._answers.update(self._unconfirmed.pop(event.assoc, {}))
            self._changed.notify_all()


def request_commitment(association: Association, parcels: Sequence[Parcel], inbox: CommitmentInbox) -> bool:
    """Ask the peer to take responsibility for objects.

    Parameters
    ----------
    association
        With an accepted context for the Push Model, and with the inbox as handler of N-EVENT-REPORT.
    parcels
        With the UIDs they were stored under.
    inbox
        Where the answer will come in.

    Returns
    -------
    bool
        Whether the peer took the request.

    Raises
    ------
    AccessRefused
        If the peer answers the request by ending the association, as Orthanc does where it does not know our AE
        title, or with the status "Not Authorized".
    PeerUnreachable
        If the peer does not answer.
    """
    request = Dataset()
    request.TransactionUID = inbox.open_transaction(parcel.sop_instance_uid for parcel in parcels)
    request.ReferencedSOPSequence = DicomSequence([_reference(parcel) for parcel in parcels])
    response, _ = association.send_n_action(
        request, _REQUEST, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    if "Status" not in response and association.dul.is_ended_by_peer:
        raise AccessRefused(
            "The destination took the association and ended it when it was asked for Storage Commitment: enter our AE "
            "title, address and port there, or set verify of this destination to find."
        )
    status = status_of(response)
    if status == _NOT_AUTHORIZED:
        raise AccessRefused("The destination does not allow us Storage Commitment: see its settings.", status=status)
    return status == _SUCCESS


class CommitmentServer:
    """Takes the associations that peers open to us for their reports.

    Parameters
    ----------
    host, port
        Where to listen.
    ae_title
        Ours, as the peer has it in its settings.
    inbox
        Where the reports go.

    Raises
    ------
    OSError
        If the port is taken.
    """

    def __init__(self, host: str, port: int, *, ae_title: str, inbox: CommitmentInbox) -> None:
        entity = AE(ae_title=ae_title)
        entity.acse_timeout = 10.0
        # In this service the peer that opens the association is the SCP.
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        entity.add_supported_context(Verification)
        self._server = ReportServer(entity, (host, port), inbox.handlers)

    def close(self) -> None:
        """Stop listening, and end what is open."""
        self._server.close()


def _reference(parcel: Parcel) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = parcel.sop_class_uid
    reference.ReferencedSOPInstanceUID = parcel.sop_instance_uid
    return reference


def _read_report(report: Dataset) -> Mapping[str, Presence]:
    """Read what a report says of each object, whatever its Event Type ID claims of all of them."""
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
