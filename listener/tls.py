"""DICOM TLS, as BCP 195 asks for it.

References
----------
DICOM PS3.15 Section B.9 (BCP 195 TLS Secure Transport Connection Profile), RFC 9325
"""

from __future__ import annotations

import ssl

from config.settings import TlsSettings
from cxr.errors import SettingsError

# RFC 9325 Section 4.2: ephemeral key exchange and authenticated encryption; TLS 1.3 has nothing else.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Make the TLS context of the listener.

    Parameters
    ----------
    settings
        With certificate and key; with ``ca`` peers must show a certificate of one of its authorities.

    Raises
    ------
    SettingsError
        If a file can't be read, or certificate and key don't belong together.
    """
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
