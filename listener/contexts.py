"""What the service accepts: SOP classes and transfer syntaxes.

Few classes, every syntax that a radiograph comes in: association set-up costs by the product.

References
----------
DICOM PS3.4 Section B.5 (storage SOP classes), PS3.5 Section 10 and Annex A (transfer syntaxes)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification

from config.settings import ListenerSettings
from cxr.dicom.transfer_syntaxes import DECODABLE_SYNTAXES
from listener import commitment_scp

TRANSFER_SYNTAXES: tuple[UID, ...] = DECODABLE_SYNTAXES
"""In order of preference if a peer offers several in one context: uncompressed, lossless, lossy; the retired
one last."""

SCORED_CLASSES: tuple[UID, ...] = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
"""Classes whose frontal chest images go to the model."""

UNSCORED_CLASSES: tuple[UID, ...] = (DigitalXRayImageStorageForProcessing,)
"""Classes that are answered with Success, recorded as not scored, and not kept."""

NOT_ACCEPTED_REASON = "sop_class_not_accepted"
"""Why an object of another storage class is not scored (setting ``listener.accept_all_storage``)."""


def storage_classes(settings: ListenerSettings) -> tuple[UID, ...]:
    """List the storage classes that are taken on their merits, without those of ``accept_all_storage``.

    Parameters
    ----------
    settings
        Whether Secondary Capture is among them.
    """
    optional = (SecondaryCaptureImageStorage,) if settings.secondary_capture else ()
    return SCORED_CLASSES + UNSCORED_CLASSES + optional


class Contexts:
    """The presentation contexts that are offered to peers; built once, shared by all associations.

    Parameters
    ----------
    settings
        Which classes are accepted.

    Attributes
    ----------
    transfer_syntaxes
        UIDs of all that may be accepted in any context.
    """

    def __init__(self, settings: ListenerSettings) -> None:
        self._classes = frozenset(storage_classes(settings))
        self._accepts_all = settings.accept_all_storage
        self._supported = [
            build_context(Verification, [ImplicitVRLittleEndian, ExplicitVRLittleEndian]),
            *(build_context(uid, list(TRANSFER_SYNTAXES)) for uid in storage_classes(settings)),
            *([_commitment()] if settings.commitment.enabled else []),
        ]
        # What is not kept needs no decoder, so any syntax will do.
        self._other_syntaxes = [*TRANSFER_SYNTAXES, *(u for u in ALL_TRANSFER_SYNTAXES if u not in TRANSFER_SYNTAXES)]
        own = (str(uid) for context in self._supported for uid in context.transfer_syntax)
        self.transfer_syntaxes = frozenset([*own, *(map(str, self._other_syntaxes) if self._accepts_all else ())])
        self._known_storage = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)

    def is_accepted(self, sop_class_uid: str) -> bool:
        """Whether an object of this class is taken on its merits; if not, it is recorded and not kept."""
        return sop_class_uid in self._classes

    def supported_for(self, proposed: Sequence[PresentationContext]) -> list[PresentationContext]:
        """List what is supported of a peer's proposal.

        Parameters
        ----------
        proposed
            The contexts of its A-ASSOCIATE-RQ.

        Returns
        -------
        list[PresentationContext]
            Not to be changed: shared. With ``accept_all_storage`` also the other storage classes
            among those proposed, private and unknown ones included.
        """
        if not self._accepts_all:
            return self._supported
        own = {context.abstract_syntax for context in self._supported}
        others = {UID(str(context.abstract_syntax)) for context in proposed} - own
        return self._supported + [build_context(uid, self._other_syntaxes) for uid in self._storage_among(others)]

    def _storage_among(self, classes: Iterable[UID]) -> list[UID]:
        # A public UID that the library knows as something else (query, print, ...) is no storage class.
        return [uid for uid in classes if uid in self._known_storage or uid.is_private or not uid.keyword]


def _commitment() -> PresentationContext:
    """Make the context of Storage Commitment; peers ask, and don't report to us here."""
    context = build_context(commitment_scp.SOP_CLASS, list(commitment_scp.SYNTAXES))
    context.scu_role, context.scp_role = True, False
    return context
