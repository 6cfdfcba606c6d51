"""Client of a DICOM destination: sends reports by C-STORE, many on one association.

References
----------
DICOM PS3.4 Annex B (Storage Service Class), PS3.8 Section 9.3.2 (presentation contexts)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from cxr.errors import PeerUnreachable, PresentationContextRejected, ReportUnreadable
from inference.delivery.association import Address, abandon, close, context, open_association, status_of
from inference.delivery.destination_client import OutgoingReport, Stored, Verification
from inference.delivery.dicom_verifier import DicomVerifier
from inference.delivery.statuses import is_stored, store_fault
from inference.delivery.stored_report import read_report
from inference.report.fallback import FALLBACK_SOP_CLASSES, fallback

if TYPE_CHECKING:
    from pynetdicom.association import Association

SR_SOP_CLASSES = (str(Comprehensive3DSRStorage), *FALLBACK_SOP_CLASSES)
STORED_SOP_CLASSES = (*SR_SOP_CLASSES, str(SecondaryCaptureImageStorage))
"""SOP classes of the proposed presentation contexts, in order of preference."""

TRANSFER_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


class DicomClient:
    """Sends reports to one AE by C-STORE.

    Parameters
    ----------
    address
        The peer.
    verifier
        Verifies the arrival of reports at the same AE.
    idle_s
        How long an association stays open without use, in seconds.
    monotonic
        Monotonic clock, in seconds.
    """

    def __init__(
        self,
        address: Address,
        *,
        verifier: DicomVerifier,
        idle_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._verifier = verifier
        self._idle_s = idle_s
        self._monotonic = monotonic
        self._association: Association | None = None
        self._used_at = 0.0
        self._unconfirmed: dict[int, str] = {}  # by report_id: SOP class of a C-STORE with unknown outcome

    def store(self, report: OutgoingReport) -> Stored:
        """Send one report, in the first SOP class that the peer accepts.

        Raises
        ------
        DeliveryError
            If the peer does not hold it.
        """
        dataset = read_report(report.path)
        if self._association is not None and self._association.is_established:
            # The peer may close an idle association at the moment of its reuse. Sending again is harmless:
            # same UID, same bytes.
            with suppress(PeerUnreachable):
                return self._store(dataset, report)
        return self._store(dataset, report)

    def verify(self, reports: Sequence[OutgoingReport]) -> Mapping[int, Verification]:
        """Verify stored reports, on a separate association.

        Raises
        ------
        DeliveryError
            If the peer does not answer.
        """
        return self._verifier.verify(reports)

    def release_idle(self) -> None:
        """Release the association if it was idle for ``idle_s``."""
        if self._association is not None and self._monotonic() - self._used_at >= self._idle_s:
            self._release()

    def close(self) -> None:
        """Release the association and stop listening for Storage Commitment reports."""
        self._release()
        self._verifier.close()

    def _store(self, dataset: Dataset, report: OutgoingReport) -> Stored:
        association = self._open()
        sop_class_uid = self._choose_sop_class(association, report)
        sent = dataset if sop_class_uid == report.sop_class_uid else _converted(dataset, sop_class_uid)
        self._unconfirmed[report.report_id] = sop_class_uid
        status = self._send(association, sent)
        del self._unconfirmed[report.report_id]
        if not is_stored(status):
            raise store_fault(status)
        return Stored(status=status, sop_class_uid=sop_class_uid, sop_instance_uid=str(sent.SOPInstanceUID))

    def _send(self, association: Association, sent: Dataset) -> int:
        try:
            status = status_of(association.send_c_store(sent))
        except (PeerUnreachable, RuntimeError) as error:
            # pynetdicom raises RuntimeError when the association has just ended.
            abandon(association)
            self._association = None
            raise PeerUnreachable("The destination cut the association or did not answer in time.") from error
        except (ValueError, AttributeError) as error:
            raise ReportUnreadable("The report can't be encoded for the destination.") from error
        self._used_at = self._monotonic()
        return status

    def _open(self) -> Association:
        if self._association is None or not self._association.is_established:
            self._release()
            contexts = [
                context(sop_class, [syntax]) for sop_class in STORED_SOP_CLASSES for syntax in TRANSFER_SYNTAXES
            ]
            self._association = open_association(self._address, contexts)
            self._used_at = self._monotonic()
        return self._association

    def _release(self) -> None:
        if self._association is not None:
            close(self._association)
            self._association = None

    def _choose_sop_class(self, association: Association, report: OutgoingReport) -> str:
        """Choose the SOP class: that of an earlier attempt, else the first that the peer accepts."""
        accepted = {str(accepted.abstract_syntax) for accepted in association.accepted_contexts}
        possible = SR_SOP_CLASSES if report.sop_class_uid == SR_SOP_CLASSES[0] else (report.sop_class_uid,)
        earlier = self._unconfirmed.get(report.report_id, report.chosen_sop_class_uid)
        if earlier in accepted and earlier in possible:
            return earlier
        for sop_class_uid in possible:
            if sop_class_uid in accepted:
                return sop_class_uid
        raise PresentationContextRejected(
            "The destination accepts none of the SOP classes that this report can have: see its conformance statement."
        )


def _converted(dataset: Dataset, sop_class_uid: str) -> Dataset:
    converted = fallback(dataset, sop_class_uid)
    converted.file_meta = dataset.file_meta
    return converted
