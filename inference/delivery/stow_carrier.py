"""A destination that takes STOW-RS, and tells by QIDO-RS what it has.

Errors of requests and of dicomweb-client carry the URL, and with it identifiers and perhaps a
password: they are never chained to ours (``from None``).

References
----------
DICOM PS3.18 Sections 10.5 (Store) and 10.6 (Search), Annex I.2 (Store Instances Response)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import requests
from dicomweb_client import DICOMwebClient

from cxr.errors import AccessRefused, DeliveryError, PeerBusy, PeerUnreachable, ReportUnreadable
from inference.delivery.bounded_http import AnswerTooLong, BoundedAdapter
from inference.delivery.carrier import Parcel, Presence, Stored, Verification
from inference.delivery.statuses import DUPLICATE_SOP_INSTANCE, http_fault, store_fault
from inference.delivery.store_response import NoStoreResponse, StoreResponse, read_store_response
from inference.delivery.stored_report import read_report

if TYPE_CHECKING:
    from config.settings import DestinationSettings

_NO_SEARCH = frozenset({400, 404, 405, 406, 501})
_ACCEPTED = 200
_CONFLICT = 409


class StowCarrier:
    """Takes reports to one DICOMweb service.

    Parameters
    ----------
    settings
        A destination of kind ``stow``.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        # Stores and searches may run at the same time, each in a thread of its own.
        self._storing = _Service(settings)
        self._searching = _Service(settings)

    def store(self, parcel: Parcel) -> Stored:
        """Store one report.

        A report that the service refuses may be there from an attempt whose answer was lost: where the answer
        allows for that, a search settles it.

        Raises
        ------
        DeliveryError
            If it is not there now.
        """
        response = self._storing.store(parcel)
        fault = _fault(response, parcel.sop_instance_uid)
        if fault is not None and not (_may_be_there(response, fault) and self._is_there(parcel)):
            raise fault
        return Stored(status=_ACCEPTED, sop_class_uid=parcel.sop_class_uid, sop_instance_uid=parcel.sop_instance_uid)

    def verify(self, parcels: Sequence[Parcel]) -> Mapping[int, Verification]:
        """Search for stored reports.

        Raises
        ------
        DeliveryError
            If the service does not answer.
        """
        return {
            parcel.report_id: Verification(presence=self._searching.search(parcel), verified_by="qido_rs")
            for parcel in parcels
        }

    def release_idle(self) -> None:
        """Do nothing: the connection pool knows when a connection has ended."""

    def close(self) -> None:
        """Close all connections."""
        self._storing.close()
        self._searching.close()

    def _is_there(self, parcel: Parcel) -> bool:
        try:
            return self._storing.search(parcel) is Presence.PRESENT
        except DeliveryError:
            return False


class _Service:
    """One DICOMweb service; used by one thread at a time."""

    def __init__(self, settings: DestinationSettings) -> None:
        self._address = settings.address.rstrip("/")
        self._timeout_s = settings.timeout_s
        self._session = _session(settings)
        self._client = DICOMwebClient(
            self._address, session=self._session, permissive_uid=True, timeout=settings.timeout_s
        )
        # Our own back-off knows about days; the client's would hold up the other reports.
        self._client.set_http_retry_params(retry=False)

    def store(self, parcel: Parcel) -> requests.Response:
        """Post one report, and return whatever the service answers.

        Raises
        ------
        PeerUnreachable
            If it does not answer in time.
        AccessRefused
            If its answer is longer than a store response can be.
        ReportUnreadable
            If there is no report in the file.
        """
        boundary = uuid4().hex
        content = _content(parcel)
        body = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + content
        try:
            return self._session.post(
                f"{self._address}/studies",
                data=body + f"\r\n--{boundary}--\r\n".encode(),
                headers={
                    "Accept": "application/dicom+json",
                    "Content-Type": f'multipart/related; type="application/dicom"; boundary="{boundary}"',
                },
                timeout=self._timeout_s,
                allow_redirects=False,
            )
        except AnswerTooLong:
            raise _no_store_response() from None
        except requests.TooManyRedirects:
            raise AccessRefused(
                "The DICOMweb service answered with a redirect, which turns a store into a search: set the "
                "destination's address to where it leads."
            ) from None
        except OSError:  # every requests.RequestException is one, and a TLS file that can't be read now
            raise PeerUnreachable("The DICOMweb service can't be reached or did not answer in time.") from None

    def search(self, parcel: Parcel) -> Presence:
        """Search for one report.

        Raises
        ------
        PeerUnreachable
            If the service does not answer in time.
        """
        try:
            found = self._client.search_for_instances(
                study_instance_uid=parcel.study_instance_uid,
                series_instance_uid=parcel.series_instance_uid if parcel.study_instance_uid else None,
                search_filters={"SOPInstanceUID": parcel.sop_instance_uid},
            )
            uids = {str(uid) for item in found for uid in item.get("00080018", {}).get("Value", ())}
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else None
            return Presence.UNANSWERABLE if status in _NO_SEARCH else Presence.UNKNOWN
        except (AnswerTooLong, requests.exceptions.InvalidJSONError, ValueError, KeyError, TypeError, AttributeError):
            return Presence.UNANSWERABLE
        except OSError:  # as above
            raise PeerUnreachable("The DICOMweb service can't be reached or did not answer in time.") from None
        return Presence.PRESENT if parcel.sop_instance_uid in uids else Presence.ABSENT

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


def _content(parcel: Parcel) -> bytes:
    read_report(parcel.path)
    try:
        return parcel.path.read_bytes()
    except OSError as error:
        raise ReportUnreadable("The report's file can't be read: run `cxr db check`.") from error


def _session(settings: DestinationSettings) -> requests.Session:
    session = requests.Session()
    # Settings come from one place: no proxy, .netrc or CA bundle out of the environment.
    session.trust_env = False
    session.max_redirects = 0
    session.headers["Accept-Encoding"] = "identity"
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(settings.timeout_s))
    if settings.tls_ca is not None:
        session.verify = str(settings.tls_ca)
    if settings.tls_certificate is not None:
        certificate, key = str(settings.tls_certificate), settings.tls_key
        session.cert = (certificate, str(key)) if key is not None else certificate
    if settings.username is not None and settings.password is not None:
        session.auth = (settings.username, settings.password.get_secret_value())
    if settings.token is not None:
        session.headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
    return session


def _fault(response: requests.Response, sop_instance_uid: str) -> DeliveryError | None:
    """Read what became of our report, the only one of the request; None: it is stored."""
    answer = _answer(response)
    reason = answer.failure_of(sop_instance_uid) if answer is not None else None
    if reason == DUPLICATE_SOP_INSTANCE:
        return None
    if reason is not None:  # also with HTTP 200 or 202, which mean that something in the request succeeded
        return store_fault(reason)
    if not 200 <= response.status_code < 300:
        return http_fault(response.status_code)
    if not response.content:  # some services answer so; the search afterwards tells whether it was true
        return None
    if answer is None:
        return _no_store_response()
    if sop_instance_uid not in answer.stored:
        return PeerBusy("The DICOMweb service answered without naming the report that it was sent.")
    return None


def _answer(response: requests.Response) -> StoreResponse | None:
    """Read the store response in a body; None: there is none."""
    try:
        return read_store_response(response.content, response.headers.get("Content-Type", ""))
    except NoStoreResponse:
        return None


def _may_be_there(response: requests.Response, fault: DeliveryError) -> bool:
    """Whether the answer may mean that the service has the report already.

    HTTP 409 does for every service. Azure says 45070 ("already stored") or 45071 (0xB00E, 0xB00F), others name the
    report in neither sequence.
    """
    is_warning_like = fault.status is not None and 0xB000 <= fault.status <= 0xBFFF
    is_silent = isinstance(fault, PeerBusy) and fault.status is None
    return response.status_code == _CONFLICT or is_warning_like or is_silent


def _no_store_response() -> AccessRefused:
    return AccessRefused(
        "The DICOMweb service answered with something else than a store response, as a log-in page or a proxy does: "
        "check the destination's address, username, password or token."
    )
