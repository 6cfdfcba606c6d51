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

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from cxr.errors import AccessRefused, PeerBusy, PeerUnreachable
from inference.delivery.carrier import Parcel, Presence, Stored, Verification
from inference.delivery.reading import read_report
from inference.delivery.statuses import DUPLICATE_SOP_INSTANCE, http_fault, store_fault

if TYPE_CHECKING:
    from config.settings import DestinationSettings

_NO_SEARCH = frozenset({400, 404, 405, 406, 501})
_ACCEPTED = 200


class StowCarrier:
    """Takes reports to one DICOMweb service.

    Parameters
    ----------
    settings
        A destination of kind ``stow``.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        self._session = _session(settings)
        self._client = DICOMwebClient(
            settings.address.rstrip("/"), session=self._session, permissive_uid=True, timeout=settings.timeout_s
        )
        # Our own back-off knows about days; the client's would hold up the other reports.
        self._client.set_http_retry_params(retry=False)

    def store(self, parcel: Parcel) -> Stored:
        """Store one report.

        Raises
        ------
        DeliveryError
            If it is not there now.
        """
        report = read_report(parcel.path)
        try:
            answer = self._client.store_instances([report])
        except requests.HTTPError as error:
            answer = _refused(error.response, parcel.sop_instance_uid)
        except requests.TooManyRedirects:
            raise AccessRefused(
                "The DICOMweb service answered with a redirect, which turns a store into a search: set the "
                "destination's address to where it leads."
            ) from None
        except (requests.exceptions.InvalidJSONError, ValueError, KeyError, TypeError, AttributeError):
            raise PeerBusy("The DICOMweb service answered with something else than a store response.") from None
        except OSError:  # every requests.RequestException is one, and a TLS file that can't be read now
            raise PeerUnreachable("The DICOMweb service can't be reached or did not answer in time.") from None
        _check(answer, parcel.sop_instance_uid)
        return Stored(status=_ACCEPTED, sop_class_uid=parcel.sop_class_uid, sop_instance_uid=parcel.sop_instance_uid)

    def verify(self, parcels: Sequence[Parcel]) -> Mapping[int, Verification]:
        """Search for stored reports.

        Raises
        ------
        DeliveryError
            If nobody answers.
        """
        return {
            parcel.report_id: Verification(presence=self._search(parcel), verified_by="qido_rs") for parcel in parcels
        }

    def release_idle(self) -> None:
        """Do nothing: the connection pool knows when a connection has ended."""

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _search(self, parcel: Parcel) -> Presence:
        try:
            found = self._client.search_for_instances(
                study_instance_uid=parcel.study_instance_uid,
                series_instance_uid=parcel.series_instance_uid if parcel.study_instance_uid else None,
                search_filters={"SOPInstanceUID": parcel.sop_instance_uid},
            )
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else None
            return Presence.UNANSWERABLE if status in _NO_SEARCH else Presence.UNKNOWN
        except (requests.exceptions.InvalidJSONError, ValueError, KeyError, TypeError, AttributeError):
            return Presence.UNANSWERABLE
        except OSError:  # every requests.RequestException is one, and a TLS file that can't be read now
            raise PeerUnreachable("The DICOMweb service can't be reached or did not answer in time.") from None
        uids = {uid for item in found for uid in item.get("00080018", {}).get("Value", ())}
        return Presence.PRESENT if parcel.sop_instance_uid in uids else Presence.ABSENT


def _session(settings: DestinationSettings) -> requests.Session:
    session = requests.Session()
    # Settings come from one place: no proxy, .netrc or CA bundle out of the environment.
    session.trust_env = False
    session.max_redirects = 0
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


def _check(answer: Dataset, sop_instance_uid: str) -> None:
    """Raise what the response says of our instance; HTTP 202 means that something in it failed."""
    reason = _failure_reason(answer, sop_instance_uid)
    if reason is not None and reason != DUPLICATE_SOP_INSTANCE:
        raise store_fault(reason)
    named = {str(item.get("ReferencedSOPInstanceUID", "")) for item in answer.get("ReferencedSOPSequence") or ()}
    # An empty response is legal for some services; the search afterwards tells whether it was true.
    if reason is None and answer and sop_instance_uid not in named:
        raise PeerBusy("The DICOMweb service answered without naming the report that it was sent.")


def _refused(response: requests.Response | None, sop_instance_uid: str) -> Dataset:
    """Return the body of an error that says why our instance failed; raise the HTTP status otherwise."""
    if response is None:
        raise PeerUnreachable("The DICOMweb service did not answer.")
    try:
        answer = Dataset.from_json(response.json())
        is_about_ours = _failure_reason(answer, sop_instance_uid) is not None
    except (ValueError, KeyError, TypeError, AttributeError):
        is_about_ours = False
    if not is_about_ours:
        raise http_fault(response.status_code) from None
    return answer


def _failure_reason(answer: Dataset, sop_instance_uid: str) -> int | None:
    for item in answer.get("FailedSOPSequence") or ():
        if item.get("ReferencedSOPInstanceUID") == sop_instance_uid and "FailureReason" in item:
            return int(item.FailureReason)
    return None
