"""The four answers that a site's first settings are made of, read from people's text and checked."""

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

NOBODY: Final = "none"
"""The answer for: no named sender, or no destination."""

_NAME_CHARACTERS: Final = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who may send: a calling AE title and the network that it calls from."""

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
    """Where reports go."""

    name: str
    kind: str  # dicom, stow or folder
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a site's settings begin with."""

    ae_title: str
    sender: Sender | None
    results: Results | None
    data_dir: Path


def read_ae_title(text: str) -> str:
    """Read our AE title.

    Raises
    ------
    SettingsError
        If it has no AE title's form.
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
        If it has another form, or the name is not known to this machine.
    """
    if text.strip().lower() in ("", NOBODY):
        return None
    title, at, where = text.strip().partition("@")
    try:
        network = _network(where.strip())
        peer = PeerSettings(ae_title=title, network=network)
    except (ValidationError, ValueError, OSError):  # OSError: the host name is not known
        at = ""
    if not at:
        raise SettingsError(
            "A sender is written AET@ADDRESS, for example ORTHANC@192.168.1.20 or PACS@10.1.0.0/16, or none for anyone "
            f"on this machine; got {text!r}."
        )
    return Sender(ae_title=peer.ae_title, network=peer.network)


def _network(where: str) -> str:
    try:
        return str(ipaddress.ip_network(where, strict=False))
    except ValueError:
        return socket.gethostbyname(where)


def read_results(text: str) -> Results | None:
    """Read where reports go: ``AET@HOST:PORT``, a DICOMweb URL, or a folder.

    Raises
    ------
    SettingsError
        If it is none of them.
    """
    given = text.strip()
    if given.lower() in ("", NOBODY):
        return None
    if given.startswith(("http://", "https://")):
        kind, name = "stow", "dicomweb"
    elif "@" in given:
        kind, name = "dicom", _NAME_CHARACTERS.sub("-", given.partition("@")[0].lower()).strip("-_") or "pacs"
    else:
        kind, name = "folder", "results"
        given = str(Path(given).expanduser().absolute())
    try:
        checked = DestinationSettings(name=name, kind=kind, address=given)
    except ValidationError:
        raise SettingsError(
            "Results go to AET@HOST:PORT (C-STORE), to the URL of a DICOMweb service (STOW-RS, without user or "
            f"password in it), to a folder, or to none; got {text!r}."
        ) from None
    return Results(name=checked.name, kind=kind, address=checked.address)
