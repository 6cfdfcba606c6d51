"""Associations as requestor: open, close, read statuses; faults become our errors.

Used by delivery and by ``cxr send``. pynetdicom reports faults as flags, empty datasets and RuntimeErrors;
this module converts them to ``DeliveryError``.

References
----------
DICOM PS3.8 Section 9.3.4 (A-ASSOCIATE-RJ), PS3.15 Annex B (TLS)
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from config.certificates import Certificates
from config.checks import key_faults
from cxr.errors import (
    AccessRefused,
    DeliveryError,
    PeerBusy,
    PeerUnreachable,
    PresentationContextRejected,
    SettingsError,
)
from inference.delivery.pynetdicom_fixes import CallingEntity
from inference.report.uids import IMPLEMENTATION_CLASS_UID

if TYPE_CHECKING:
    from config.settings import DestinationSettings

IMPLEMENTATION_VERSION_NAME = "CXR_LISTENER"
MAX_PDU_BYTES = 131072
_TRANSIENT = 0x02


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Address of a peer, with the parameters of an association to it."""

    ae_title: str  # called
    host: str
    port: int
    calling_ae_title: str
    timeout_s: float  # for the connection, and for each answer
    tls: Certificates | None = None


def context(abstract_syntax: str, transfer_syntaxes: Iterable[str]) -> PresentationContext:
    """Create one presentation context to propose."""
    return build_context(UID(abstract_syntax), [UID(syntax) for syntax in transfer_syntaxes])


def open_association(
    address: Address,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[Any] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Association:
    """Open an association.

    Parameters
    ----------
    address
        The peer.
    contexts
        Presentation contexts to propose; 1 to 128.
    handlers
        Event handlers of pynetdicom, for requests of the peer on this association.
    roles
        Role selections, for contexts with us as SCP.

    Returns
    -------
    Association
        Established, with at least one accepted context.

    Raises
    ------
    PeerUnreachable
        If there is no connection or no answer in time, or the peer aborts.
    PeerBusy
        If the peer rejects transiently.
    AccessRefused
        If the peer rejects permanently; a PACS under maintenance may do so for an hour.
    PresentationContextRejected
        If the peer accepts none of the contexts.
    """
    entity = CallingEntity(ae_title=address.calling_ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = address.timeout_s
    entity.acse_timeout = address.timeout_s
    entity.dimse_timeout = address.timeout_s
    entity.network_timeout = 2 * address.timeout_s
    try:
        association = entity.associate(
            address.host,
            address.port,
            contexts=list(contexts),
            ae_title=address.ae_title,
            max_pdu=MAX_PDU_BYTES,
            tls_args=(address.tls.context(), address.host) if address.tls else None,
            evt_handlers=list(handlers),
            ext_neg=list(roles),
        )
    except OSError as error:
        raise PeerUnreachable("The destination's host name has no address: check the name server.") from error
    if not association.is_established:
        raise _open_error(association)
    return association


def status_of(response: Dataset) -> int:
    """Read the status of a DIMSE response.

    Raises
    ------
    PeerUnreachable
        If the response has none: the peer did not answer in time, aborted, or sent an invalid response.
    """
    if "Status" not in response:
        raise PeerUnreachable("The destination cut the association or did not answer in time.")
    return int(response.Status)


def close(association: Association) -> None:
    """Release an association; abort it where release is no longer possible."""
    if association.is_established:
        association.release()
    abandon(association)


def abandon(association: Association) -> None:
    """Abort an association after a fault, where a release would wait for an answer in vain."""
    if association.is_alive() and not association.is_released:
        association.abort()


def client_certificates(
    ca: Path | None, certificate: Path | None, key: Path | None, *, destination: str
) -> Certificates:
    """Create the TLS contexts of a destination; each association uses the current content of the files.

    Parameters
    ----------
    ca
        PEM file of the CAs that issue the peer's certificate; None: those of the system.
    certificate, key
        PEM files of our certificate and private key, if the peer requires one.
    destination
        Name of the destination, for the log.

    Raises
    ------
    SettingsError
        If a file can't be read or has no valid content, or others may read the key.
    """
    return Certificates((ca, certificate, key), partial(_client_context, ca, certificate, key), destination=destination)


def certificates_of(destination: DestinationSettings) -> Certificates | None:
    """Create the TLS contexts from the settings of a destination; None: it has no TLS.

    Raises
    ------
    SettingsError
        As for `client_certificates`.
    """
    if not destination.tls:
        return None
    files = (destination.tls_ca, destination.tls_certificate, destination.tls_key)
    return client_certificates(*files, destination=destination.name)


def _client_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    faults = tuple(key_faults("tls_key of a destination", key))
    if faults:
        raise SettingsError(faults[0])
    try:
        tls_context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            tls_context.load_cert_chain(certificate, key)
    except OSError as error:  # base of ssl.SSLError
        raise SettingsError(
            "A TLS file of a destination can't be used; accepted are readable PEM files: check tls_ca, "
            "tls_certificate and tls_key."
        ) from error
    return tls_context


def _open_error(association: Association) -> DeliveryError:
    """Return the error for an association that was not established."""
    if association.is_rejected:
        answer = association.acceptor.primitive
        codes = f"result {answer.result}, source {answer.result_source}, reason {answer.diagnostic}"
        if answer.result == _TRANSIENT:
            return PeerBusy(f"The destination rejected the association for now ({codes}).")
        return AccessRefused(
            f"The destination rejected the association ({codes}): check the AE titles, ours and its own, "
            "in the settings here and there."
        )
    if association.rejected_contexts and not association.accepted_contexts:
        proposed = ", ".join(_proposals(association.rejected_contexts))
        return PresentationContextRejected(
            f"The destination accepts none of the proposed SOP classes ({proposed}): see its conformance "
            "statement, and enable one of these SOP classes there."
        )
    malformed = association.dul.malformed
    if malformed is not None:
        return PeerUnreachable(
            f"The destination answered, but its A-ASSOCIATE-AC can't be read: item {malformed.item:02X}H at byte "
            f"{malformed.offset} is longer than its enclosing item or PDU. Report this to its vendor."
        )
    return PeerUnreachable("No association: the destination is down, does not answer in time, or aborted.")


def _proposals(contexts: Iterable[PresentationContext]) -> list[str]:
    """Return the names of the SOP classes, without duplicates."""
    return list(dict.fromkeys(UID(str(context.abstract_syntax)).name for context in contexts))
