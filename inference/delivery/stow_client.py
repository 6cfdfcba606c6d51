"""Client of a DICOMweb destination: stores reports by STOW-RS, verifies them by QIDO-RS.

Errors of requests and dicomweb-client contain the URL, and with it identifiers and perhaps a password:
they are never chained to ours (``from None``).

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
from inference.delivery.destination_client import OutgoingReport, Presence, Stored, Verification
from inference.delivery.statuses import DUPLICATE_SOP_INSTANCE, http_fault, store_fault
from inference.delivery.store_response import NoStoreResponse, StoreResponse, read_store_response
from inference.delivery.stored_report import read_report

if TYPE_CHECKING:
    from config.settings import DestinationSettings

_NO_SEARCH = frozenset({400, 404, 405, 406, 501})
_ACCEPTED = 200
_CONFLICT = 409


class StowClient:
    """Stores and verifies reports at one DICOMweb service.

    Parameters
    ----------
    settings
        A destination of kind ``stow``.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        # Stores and searches may run at the same time, in two threads.
        self._store_service = _DicomwebService(settings)
        self._search_service = _DicomwebService(settings)

    def store(self, report: OutgoingReport) -> Stored:
        """Store one report.

        The service may refuse a report because it holds it from an attempt whose answer was lost: where the answer
        allows for that, a search decides.

        Raises
        ------
        DeliveryError
            If the service does not hold it.
        """
        response = self._store_service.store(report)
        fault = _fault(response, report.sop_instance_uid)
        if fault is not None and not (_may_be_stored(response, fault) and self._is_stored(report)):
            raise fault
        return Stored(status=_ACCEPTED, sop_class_uid=report.sop_class_uid, sop_instance_uid=report.sop_instance_uid)

    def verify(self, reports: Sequence[OutgoingReport]) -> Mapping[int, Verification]:
        """Search for stored reports by QIDO-RS.

        Raises
        ------
        DeliveryError
            If the service does not answer.
        """
        return {
            report.report_id: Verification(presence=self._search_service.search(report), verified_by="qido_rs")
            for report in reports
        }

    def release_idle(self) -> None:
        """Do nothing: the connection pool handles idle connections."""

    def close(self) -> None:
        """Close all connections."""
        self._store_service.close()
        self._search_service.close()

    def _is_stored(self, report: OutgoingReport) -> bool:
        try:
            return self._store_service.search(report) is Presence.PRESENT
        except DeliveryError:
            return False


class _DicomwebService:
    """One DICOMweb service; used by one thread at a time."""

    def __init__(self, settings: DestinationSettings) -> None:
        self._address = settings.address.rstrip("/")
        self._timeout_s = settings.timeout_s
        self._session = _session(settings)
        self._client = DICOMwebClient(
            self._address, session=self._session, permissive_uid=True, timeout=settings.timeout_s
        )
        # Retries are planned by our own back-off; those of the library would delay the other reports.
        self._client.set_http_retry_params(retry=False)

    def store(self, report: OutgoingReport) -> requests.Response:
        """Post one report and return the response of any status.

        Raises
        ------
        PeerUnreachable
            If it does not answer in time.
        AccessRefused
            If its answer is too long for a store response.
        ReportUnreadable
            If the file holds no report.
        """
        boundary = uuid4().hex
        content = _content(report)
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
                "The DICOMweb service answered with a redirect, which would turn the POST into a GET: set the "
                "destination's address to its target."
            ) from None
        except OSError:  # base of requests.RequestException; also an unreadable TLS file
            raise PeerUnreachable("The DICOMweb service can't be reached or did not answer in time.") from None

    def search(self, report: OutgoingReport) -> Presence:
        """Search for one report.

        Raises
        ------
        PeerUnreachable
            If the service does not answer in time.
        """
        try:
            instances = self._client.search_for_instances(
                study_instance_uid=report.study_instance_uid,
                series_instance_uid=report.series_instance_uid if report.study_instance_uid else None,
                search_filters={"SOPInstanceUID": report.sop_instance_uid},
            )
            uids = {str(uid) for item in instances for uid in item.get("00080018", {}).get("Value", ())}
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else None
            return Presence.UNANSWERABLE if status in _NO_SEARCH else Presence.UNKNOWN
        except (AnswerTooLong, requests.exceptions.InvalidJSONError, ValueError, KeyError, TypeError, AttributeError):
            return Presence.UNANSWERABLE
        except OSError:  # as in `store`
            raise PeerUnreachable("The DICOMweb service can't be reached or did not answer in time.") from None
        return Presence.PRESENT if report.sop_instance_uid in uids else Presence.ABSENT

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


def _content(report: OutgoingReport) -> bytes:
    read_report(report.path)
    try:
        return report.path.read_bytes()
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
    """Return the fault of our report, the only one of the request; None: it is stored."""
    answer = _answer(response)
    reason = answer.failure_of(sop_instance_uid) if answer is not None else None
    if reason == DUPLICATE_SOP_INSTANCE:
        return None
    if reason is not None:  # also with HTTP 200 and 202
        return store_fault(reason)
    if not 200 <= response.status_code < 300:
        return http_fault(response.status_code)
    if not response.content:  # some services answer without a body; verification follows
        return None
    if answer is None:
        return _no_store_response()
    if sop_instance_uid not in answer.stored:
        return PeerBusy("The DICOMweb service answered without naming the report in either sequence.")
    return None


def _answer(response: requests.Response) -> StoreResponse | None:
    """Parse the store response of a body; None: the body is none."""
    try:
        return read_store_response(response.content, response.headers.get("Content-Type", ""))
    except NoStoreResponse:
        return None


def _may_be_stored(response: requests.Response, fault: DeliveryError) -> bool:
    """Whether the answer may mean that the service already holds the report.

    That is HTTP 409 at every service, Failure Reason 45070 ("already stored") or 45071 (0xB00E, 0xB00F) at Azure's,
    and a response that names the report in neither sequence at others.
    """
    is_warning_like = fault.status is not None and 0xB000 <= fault.status <= 0xBFFF
    is_silent = isinstance(fault, PeerBusy) and fault.status is None
    return response.status_code == _CONFLICT or is_warning_like or is_silent


def _no_store_response() -> AccessRefused:
    return AccessRefused(
        "The DICOMweb service answered with no store response (a log-in page or a proxy may answer instead): "
        "check the destination's address, username, password or token."
    )
