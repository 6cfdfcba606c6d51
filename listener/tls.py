"""TLS of the listener according to BCP 195.

References
----------
DICOM PS3.15 Sections B.12 and B.13 (BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile,
and the modified one), RFC 9325
"""

from __future__ import annotations

import ssl
from functools import partial

from config.certificates import Certificates
from config.checks import key_faults
from config.settings import TlsSettings
from cxr.errors import SettingsError

# RFC 9325 Section 4.2: ephemeral key exchange and authenticated encryption; TLS 1.3 has no others. Level 2
# requires keys of 2048 bits (RSA) and 224 bits (elliptic curves), and for signatures better than SHA-1.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!AESCCM8:@SECLEVEL=2"


def server_certificates(settings: TlsSettings) -> Certificates:
    """Create the TLS contexts of the listener, renewed when their files change.

    Parameters
    ----------
    settings
        With certificate and key.

    Raises
    ------
    SettingsError
        If a file can't be used, now at the start.
    """
    return Certificates((settings.certificate, settings.key, settings.ca), partial(server_context, settings))


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Create the TLS context of the listener.

    Parameters
    ----------
    settings
        With certificate and key; with ``ca`` peers must present a certificate of one of its CAs.

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
    except OSError as error:  # base of ssl.SSLError
        raise SettingsError(
            f"A file of listener.tls can't be used ({error.strerror or type(error).__name__}); accepted are PEM files: "
            "check certificate, key and ca, and that the service's account may read them."
        ) from error
    return context
