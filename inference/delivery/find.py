"""Whether a PACS has an object, by C-FIND on its SOP Instance UID.

References
----------
DICOM PS3.4 Section C.4.1 (C-FIND), Section C.6.2 (Study Root)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from cxr.errors import PeerUnreachable
from inference.delivery.association import status_of
from inference.delivery.carrier import Parcel, Presence

if TYPE_CHECKING:
    from pynetdicom.association import Association

FIND_SOP_CLASS = str(StudyRootQueryRetrieveInformationModelFind)
_PENDING = (0xFF00, 0xFF01)
_TRY_LATER = range(0xA700, 0xA800)
_MOST_ANSWERS = 1000
"""To a question about one object; a peer that does not look at the keys may answer with all that it has."""


def find_instance(association: Association, parcel: Parcel) -> Presence:
    """Ask for one object at IMAGE level, below its study and series.

    Parameters
    ----------
    association
        With an accepted context for Study Root Query/Retrieve - FIND.
    parcel
        With the UIDs the object was stored under.

    Returns
    -------
    Presence
        ``UNANSWERABLE`` if the peer refuses such a query.

    Raises
    ------
    PeerUnreachable
        If the peer does not answer, or does not come to an end with it.
    """
    presence = Presence.ABSENT
    # To its end, also after a match: pynetdicom's association is free only then.
    for number, (response, identifier) in enumerate(association.send_c_find(_query(parcel), FIND_SOP_CLASS)):
        if number == _MOST_ANSWERS:
            raise PeerUnreachable("The destination answers a question about one object without an end.")
        status = status_of(response)
        if status in _PENDING:
            if identifier is not None and identifier.get("SOPInstanceUID") == parcel.sop_instance_uid:
                presence = Presence.PRESENT
        elif status in _TRY_LATER:
            return Presence.UNKNOWN
        elif status != 0x0000:
            return Presence.UNANSWERABLE
    return presence


def _query(parcel: Parcel) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = parcel.study_instance_uid or ""
    query.SeriesInstanceUID = parcel.series_instance_uid
    query.SOPInstanceUID = parcel.sop_instance_uid
    return query
