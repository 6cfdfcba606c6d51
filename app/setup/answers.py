"""The four answers of `cxr init`: parsed and validated."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from config.sections import DestinationSettings, ListenerSettings, PeerSettings, is_loopback
from cxr.errors import SettingsError

NONE: Final = "none"
"""Answer for no named sender or no destination."""

_NAME_CHARACTERS: Final = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A permitted sender: calling AE title and network."""

    ae_title: str
    network: str  # CIDR notation

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        return is_loopback(str(ipaddress.ip_network(self.network).network_address))

    @property
    def host(self) -> str:
        """Its address, or the first of its network."""
        return str(ipaddress.ip_network(self.network).network_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Destination of the reports."""

    name: str
    kind: str  # dicom, stow or folder
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Values of the first settings of a site."""

    ae_title: str
    sender: Sender | None
    results: Results | None
    data_dir: Path


def read_ae_title(text: str) -> str:
    """Read the AE title of the listener.

    Raises
    ------
    SettingsError
        If it is not a valid AE title.
    """
    try:
        return ListenerSettings(ae_title=text).ae_title
    except ValidationError:
        raise SettingsError(
            f"An AE title has 1 to 16 printable ASCII characters and no backslash; got {text!r}."
        ) from None


def read_sender(text: str) -> Sender | None:
    """Read ``AET@NETWORK``: an address, a network in CIDR notation, or a host name.

    Raises
    ------
    SettingsError
        If it has another form, or the host name can't be resolved.
    """
    if text.strip().lower() in ("", NONE):
        return None
    title, at, host = text.strip().partition("@")
    try:
        network = _network(host.strip())
        peer = PeerSettings(ae_title=title, network=network)
    except (ValidationError, ValueError, OSError):  # OSError: the host name can't be resolved
        at = ""
    if not at:
        raise SettingsError(
            "A sender is written AET@ADDRESS, for example ORTHANC@192.168.1.20 or PACS@10.1.0.0/16, or none for anyone "
            f"on this machine; got {text!r}."
        )
    return Sender(ae_title=peer.ae_title, network=peer.network)


def _network(host: str) -> str:
    try:
        return str(ipaddress.ip_network(host, strict=False))
    except ValueError:
        return socket.gethostbyname(host)


def read_results(text: str) -> Results | None:
    """Read a destination: ``AET@HOST:PORT``, a DICOMweb URL, or a folder.

    Raises
    ------
    SettingsError
        If it is none of them.
    """
    address = text.strip()
    if address.lower() in ("", NONE):
        return None
    if address.startswith(("http://", "https://")):
        kind, name = "stow", "dicomweb"
    elif "@" in address:
        kind, name = "dicom", _NAME_CHARACTERS.sub("-", address.partition("@")[0].lower()).strip("-_") or "pacs"
    else:
        kind, name = "folder", "results"
        address = str(Path(address).expanduser().absolute())
    try:
        destination = DestinationSettings(name=name, kind=kind, address=address)
    except ValidationError:
        raise SettingsError(
            "Results go to AET@HOST:PORT (C-STORE), to the URL of a DICOMweb service (STOW-RS, without user or "
            f"password in it), to a folder, or to none; got {text!r}."
        ) from None
    return Results(name=destination.name, kind=kind, address=destination.address)
