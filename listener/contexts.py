"""Supported presentation contexts: SOP classes and transfer syntaxes.

Few classes, all syntaxes of radiographs: the cost of negotiation grows with the product.

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
"""Classes whose frontal chest radiographs are scored."""

UNSCORED_CLASSES: tuple[UID, ...] = (DigitalXRayImageStorageForProcessing,)
"""Classes that are answered with Success, recorded as not scored, and not kept."""

NOT_ACCEPTED_REASON = "sop_class_not_accepted"
"""Reason for not scoring an object of another storage class (setting ``listener.accept_all_storage``)."""


def storage_classes(settings: ListenerSettings) -> tuple[UID, ...]:
    """Return the storage classes whose objects get a view decision; those of ``accept_all_storage`` don't.

    Parameters
    ----------
    settings
        Includes Secondary Capture if ``secondary_capture`` is set.
    """
    optional = (SecondaryCaptureImageStorage,) if settings.secondary_capture else ()
    return SCORED_CLASSES + UNSCORED_CLASSES + optional


class Contexts:
    """The supported presentation contexts; built once, shared by all associations.

    Parameters
    ----------
    settings
        The accepted classes.

    Attributes
    ----------
    transfer_syntaxes
        UIDs of the transfer syntaxes that may be accepted in any context.
    """

    def __init__(self, settings: ListenerSettings) -> None:
        self._classes = frozenset(storage_classes(settings))
        self._accepts_all = settings.accept_all_storage
        self._supported = [
            build_context(Verification, [ImplicitVRLittleEndian, ExplicitVRLittleEndian]),
            *(build_context(uid, list(TRANSFER_SYNTAXES)) for uid in storage_classes(settings)),
            *([_commitment()] if settings.commitment.enabled else []),
        ]
        # Objects of other classes are not kept, so any transfer syntax is accepted.
        self._other_syntaxes = [*TRANSFER_SYNTAXES, *(u for u in ALL_TRANSFER_SYNTAXES if u not in TRANSFER_SYNTAXES)]
        own = (str(uid) for context in self._supported for uid in context.transfer_syntax)
        self.transfer_syntaxes = frozenset([*own, *(map(str, self._other_syntaxes) if self._accepts_all else ())])
        self._known_storage = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)

    def is_accepted(self, sop_class_uid: str) -> bool:
        """Whether objects of this class get a view decision; others are recorded and not kept."""
        return sop_class_uid in self._classes

    def supported_for(self, proposed: Sequence[PresentationContext]) -> list[PresentationContext]:
        """Return the supported contexts for a peer's proposal.

        Parameters
        ----------
        proposed
            The presentation contexts of the A-ASSOCIATE-RQ.

        Returns
        -------
        list[PresentationContext]
            Shared, must not be changed. With ``accept_all_storage`` they include the other proposed storage
            classes, also private and unknown ones.
        """
        if not self._accepts_all:
            return self._supported
        own = {context.abstract_syntax for context in self._supported}
        others = {UID(str(context.abstract_syntax)) for context in proposed} - own
        return self._supported + [build_context(uid, self._other_syntaxes) for uid in self._storage_among(others)]

    def _storage_among(self, classes: Iterable[UID]) -> list[UID]:
        # A public UID that pynetdicom has under another service (query, print, ...) is no storage class.
        return [uid for uid in classes if uid in self._known_storage or uid.is_private or not uid.keyword]


def _commitment() -> PresentationContext:
    """Create the context of Storage Commitment, with us as SCP only."""
    context = build_context(commitment_scp.SOP_CLASS, list(commitment_scp.SYNTAXES))
    context.scu_role, context.scp_role = True, False
    return context
