"""A destination that takes C-STORE: one association for many reports.

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
from inference.delivery.carrier import Parcel, Stored, Verification
from inference.delivery.dicom_verifier import DicomVerifier
from inference.delivery.statuses import is_stored, store_fault
from inference.delivery.stored_report import read_report
from inference.report.fallback import FALLBACK_SOP_CLASSES, fallback

if TYPE_CHECKING:
    from pynetdicom.association import Association

SR_SOP_CLASSES = (str(Comprehensive3DSRStorage), *FALLBACK_SOP_CLASSES)
STORED_SOP_CLASSES = (*SR_SOP_CLASSES, str(SecondaryCaptureImageStorage))
"""What a destination is asked to take, in this order."""

TRANSFER_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


class DicomCarrier:
    """Takes reports to one AE by C-STORE.

    Parameters
    ----------
    address
        Whom to call.
    verifier
        Asks the same AE whether reports arrived.
    idle_s
        How long an association stays open without use, in seconds.
    monotonic
        Seconds of a clock that never steps.
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
        self._begun: dict[int, str] = {}  # SOP class of sendings whose outcome is not known

    def store(self, parcel: Parcel) -> Stored:
        """Send one report, in the first SOP class that the peer accepts.

        Raises
        ------
        DeliveryError
            If it is not there now.
        """
        report = read_report(parcel.path)
        if self._association is not None and self._association.is_established:
            # The peer may close an idle association in the very moment it is used again. Sending once
            # more is harmless: the same UID and the same bytes.
            with suppress(PeerUnreachable):
                return self._store(report, parcel)
        return self._store(report, parcel)

    def verify(self, parcels: Sequence[Parcel]) -> Mapping[int, Verification]:
        """Ask for stored reports, on an association of its own.

        Raises
        ------
        DeliveryError
            If nobody answers.
        """
        return self._verifier.verify(parcels)

    def release_idle(self) -> None:
        """Release the association if it was not used for a short while."""
        if self._association is not None and self._monotonic() - self._used_at >= self._idle_s:
            self._drop()

    def close(self) -> None:
        """Release the association and stop listening for reports."""
        self._drop()
        self._verifier.close()

    def _store(self, report: Dataset, parcel: Parcel) -> Stored:
        association = self._open()
        sop_class_uid = self._choose(association, parcel)
        sent = report if sop_class_uid == parcel.sop_class_uid else _converted(report, sop_class_uid)
        self._begun[parcel.report_id] = sop_class_uid
        status = self._send(association, sent)
        del self._begun[parcel.report_id]
        if not is_stored(status):
            raise store_fault(status)
        return Stored(status=status, sop_class_uid=sop_class_uid, sop_instance_uid=str(sent.SOPInstanceUID))

    def _send(self, association: Association, sent: Dataset) -> int:
        try:
            status = status_of(association.send_c_store(sent))
        except (PeerUnreachable, RuntimeError) as error:
            # RuntimeError is pynetdicom's way to say that the association has just ended.
            abandon(association)
            self._association = None
            raise PeerUnreachable("The destination cut the association or did not answer in time.") from error
        except (ValueError, AttributeError) as error:
            raise ReportUnreadable("The report can't be encoded for the destination.") from error
        self._used_at = self._monotonic()
        return status

    def _open(self) -> Association:
        if self._association is None or not self._association.is_established:
            self._drop()
            contexts = [
                context(sop_class, [syntax]) for sop_class in STORED_SOP_CLASSES for syntax in TRANSFER_SYNTAXES
            ]
            self._association = open_association(self._address, contexts)
            self._used_at = self._monotonic()
        return self._association

    def _drop(self) -> None:
        if self._association is not None:
            close(self._association)
            self._association = None

    def _choose(self, association: Association, parcel: Parcel) -> str:
        """Choose the SOP class: the one that was begun with, else the first that the peer accepts."""
        accepted = {str(accepted.abstract_syntax) for accepted in association.accepted_contexts}
        possible = SR_SOP_CLASSES if parcel.sop_class_uid == SR_SOP_CLASSES[0] else (parcel.sop_class_uid,)
        before = self._begun.get(parcel.report_id, parcel.chosen_sop_class_uid)
        if before in accepted and before in possible:
            return before
        for sop_class_uid in possible:
            if sop_class_uid in accepted:
                return sop_class_uid
        raise PresentationContextRejected(
            "The destination accepts none of the SOP classes that this report can have: see its conformance statement."
        )


def _converted(report: Dataset, sop_class_uid: str) -> Dataset:
    converted = fallback(report, sop_class_uid)
    converted.file_meta = report.file_meta
    return converted
