"""DICOM TLS, as BCP 195 asks for it, with certificates that can be renewed while the service runs.

References
----------
DICOM PS3.15 Sections B.12 and B.13 (BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile,
and the modified one), RFC 9325
"""

from __future__ import annotations

import ssl
from pathlib import Path

from config.checks import key_faults
from config.logs import get_logger
from config.settings import TlsSettings
from cxr.errors import SettingsError

# RFC 9325 Section 4.2: ephemeral key exchange and authenticated encryption; TLS 1.3 has nothing else. Level 2 asks
# for keys of 2048 bits (RSA) and 224 bits (elliptic curves), and for signatures better than SHA-1.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!AESCCM8:@SECLEVEL=2"

_Stamp = tuple[tuple[int, int, int] | None, ...]

log = get_logger(__name__)


class Certificates:
    """The TLS context of new connections: made anew when one of its files has changed.

    Associations that are open keep the certificate that they began with. Files that can't be used,
    because half of them are written or the key is another certificate's, change nothing: it is
    logged, and they are looked at again when they change again.

    Parameters
    ----------
    settings
        With certificate and key.

    Raises
    ------
    SettingsError
        If a file can't be used, now at the start.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._seen = self._stamp()
        self._context = server_context(settings)

    def context(self) -> ssl.SSLContext:
        """Give the context for a connection that came just now."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            self._renew()
        return self._context

    def _renew(self) -> None:
        try:
            self._context = server_context(self._settings)
        except SettingsError as error:
            log.warning("tls_certificate_not_renewed", code=error.code)
        else:
            log.info("tls_certificate_renewed")

    def _stamp(self) -> _Stamp:
        """Say what the files look like from outside; a renewal by rename gives another inode."""
        settings = self._settings
        return tuple(map(_stamp_of, (settings.certificate, settings.key, settings.ca)))


def _stamp_of(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Make the TLS context of the listener.

    Parameters
    ----------
    settings
        With certificate and key; with ``ca`` peers must show a certificate of one of its authorities.

    Raises
    ------
    SettingsError
        If a file can't be read, others may read the key, or certificate and key don't belong together.
    """
    faults = tuple(key_faults("listener.tls.key", settings.key))
    if faults:
        raise SettingsError(faults[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
        if settings.ca is not None:
            context.load_verify_locations(settings.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError among them
        raise SettingsError(
            f"A file of listener.tls can't be used ({error.strerror or type(error).__name__}); accepted are PEM files: "
            "check certificate, key and ca, and that the service's account may read them."
        ) from error
    return context
