"""Event Information of a Storage Commitment N-EVENT-REPORT.

References
----------
DICOM PS3.4 Table J.3-2, PS3.3 Section C.14.1.1
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence


def commitment_report(
    transaction_uid: str, committed: Iterable[tuple[str, str]], refused: Iterable[tuple[str, str, int]]
) -> Dataset:
    """Build the Event Information of an N-EVENT-REPORT.

    Parameters
    ----------
    transaction_uid
        Transaction UID of the request (N-ACTION).
    committed
        SOP Class UID and SOP Instance UID of each stored instance.
    refused
        SOP Class UID, SOP Instance UID and Failure Reason (PS3.3 Section C.14.1.1) of each other instance.

    Returns
    -------
    Dataset
        Without empty sequences: Referenced SOP Sequence and Failed SOP Sequence are type 1C.
    """
    report = Dataset()
    report.TransactionUID = transaction_uid
    present = [_item(sop_class_uid, sop_instance_uid) for sop_class_uid, sop_instance_uid in committed]
    failed = []
    for sop_class_uid, sop_instance_uid, reason in refused:
        failed.append(_item(sop_class_uid, sop_instance_uid))
        failed[-1].FailureReason = reason
    if present:
        report.ReferencedSOPSequence = Sequence(present)
    if failed:
        report.FailedSOPSequence = Sequence(failed)
    return report


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
