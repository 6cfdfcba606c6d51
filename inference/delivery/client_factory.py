"""Factory of destination clients: one class for each ``kind`` of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inference.delivery.association import Address, certificates_of
from inference.delivery.dicom_client import DicomClient
from inference.delivery.dicom_verifier import DicomVerifier
from inference.delivery.folder_client import FolderClient
from inference.delivery.stow_client import StowClient

if TYPE_CHECKING:
    from config.settings import DestinationSettings
    from inference.delivery.destination_client import DestinationClient


def make_client(destination: DestinationSettings, calling_ae_title: str) -> DestinationClient:
    """Create the client of one destination; no connection is opened yet.

    Parameters
    ----------
    destination
        Entry of the settings.
    calling_ae_title
        Our AE title; used by kind ``dicom`` alone.

    Raises
    ------
    SettingsError
        If its TLS files can't be used.
    """
    if destination.kind == "stow":
        return StowClient(destination)
    if destination.kind == "folder":
        return FolderClient(Path(destination.address))
    ae_title, host, port = destination.dicom_address()
    address = Address(
        ae_title=ae_title,
        host=host,
        port=port,
        calling_ae_title=calling_ae_title,
        timeout_s=destination.timeout_s,
        tls=certificates_of(destination),
    )
    verifier = DicomVerifier(address, mode=destination.verify, commitment_listen=destination.commitment_address())
    return DicomClient(address, verifier=verifier)
