"""Form of stored identifiers: as received, as keyed pseudonyms, or none.

A pseudonym is an HMAC-SHA256 under a key of its own, in a file outside the database's folder. Equal values have
equal pseudonyms, so images still join by patient, study and accession number; without the key, values can't be
guessed by trial. Rows keep the form in which they were written, so a query searches for every form of a value.

``none`` stores one keyed value, that of the SOP Instance UID: resends and Storage Commitment need it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from cxr.domain import ImageHeader
from cxr.errors import StorageError
from db.events import EventKind, append_event, load_or_create_key
from db.schema.records import Receipt
from db.schema.tables import Event

IDENTIFIERS = "identifiers"  # key in a session's info
FORGOTTEN = "forgotten"

Kind = Literal["full", "pseudonym", "none"]
IdentifierType = Literal["uid", "patient_id", "issuer_of_patient_id", "accession_number", "digest"]

_LENGTHS = {"patient_id": 32, "issuer_of_patient_id": 32, "accession_number": 16, "digest": 64}  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Form of identifiers in new rows, and the key of pseudonyms.

    Parameters
    ----------
    kind
        The setting ``audit.identifiers``.
    key
        32 bytes; None: this installation has no pseudonyms.
    """

    kind: Kind = "full"
    key: bytes | None = None

    def pseudonym(self, kind: IdentifierType, value: str | None) -> str | None:
        """Return the pseudonym of a value; that of a UID is a UID (2.25, PS3.5 Section B.2).

        Raises
        ------
        StorageError
            If there is no key.
        """
        if value is None:
            return None
        if self.key is None:
            raise StorageError("There is no key for pseudonyms: restore your copy of audit.pseudonym_key_file.")
        mac = hmac.new(self.key, f"{kind}\0{value}".encode(), hashlib.sha256)
        if kind == "uid":
            return f"2.25.{UUID(bytes=mac.digest()[:16], version=5).int}"
        return mac.hexdigest()[: _LENGTHS[kind]]

    def forms(self, kind: IdentifierType, value: str) -> tuple[str, ...]:
        """Return the stored forms of a value: itself and, with a key, its pseudonym."""
        keyed = self.pseudonym(kind, value) if self.key is not None else None
        return (value,) if keyed is None else (value, keyed)

    def is_same(self, kind: IdentifierType, stored: str | None, received: str | None) -> bool:
        """Return whether a stored value is a form of a received one."""
        if stored is None or received is None:
            return stored is received
        return stored in self.forms(kind, received)

    def stored(self, receipt: Receipt) -> Receipt:
        """Return a receipt with its identifiers in the form to be stored."""
        if self.kind == "full":
            return receipt
        return replace(
            receipt,
            header=self._stored_header(receipt.header),
            dataset_digest=self.pseudonym("digest", receipt.dataset_digest) or "",
            pixel_digest=self.pseudonym("digest", receipt.pixel_digest),
        )

    def _stored_header(self, header: ImageHeader) -> ImageHeader:
        pseudonymous = replace(
            header,
            sop_instance_uid=self.pseudonym("uid", header.sop_instance_uid) or "",
            study_instance_uid=self.pseudonym("uid", header.study_instance_uid),
            series_instance_uid=self.pseudonym("uid", header.series_instance_uid),
            accession_number=self.pseudonym("accession_number", header.accession_number),
            patient_id=self.pseudonym("patient_id", header.patient_id),
            issuer_of_patient_id=self.pseudonym("issuer_of_patient_id", header.issuer_of_patient_id),
            identity_digest=self.pseudonym("digest", header.identity_digest) or "",
            study_date=None,
            body_part_examined=None,  # free text of a peer; the decision has its meaning
        )
        if self.kind == "pseudonym":
            return pseudonymous
        absent = dict.fromkeys(
            ("study_instance_uid", "series_instance_uid", "accession_number", "patient_id", "issuer_of_patient_id")
        )
        return replace(pseudonymous, **absent)  # type: ignore[arg-type]


AS_RECEIVED = Identifiers()


def of_session(session: Session) -> Identifiers:
    """Return the identifier form of a session's database."""
    identifiers: Identifiers = session.info.get(IDENTIFIERS, AS_RECEIVED)
    return identifiers


def load_identifiers(kind: Kind, key_file: Path, *, create: bool) -> Identifiers:
    """Return the identifier form of the settings, with the key of pseudonyms.

    Parameters
    ----------
    kind
        The setting ``audit.identifiers``.
    key_file
        The setting ``audit.pseudonym_key_file``: 64 hexadecimal digits, mode 0600.
    create
        Whether to create a missing key.

    Raises
    ------
    StorageError
        If the file can't be read or created, is accessible to other accounts, or contains no key.
    """
    key = load_or_create_key(key_file) if create or key_file.exists() else None
    return Identifiers(kind, key)


def record_identifier_form(session: Session, identifiers: Identifiers, *, now: datetime) -> None:
    """Record a change of the identifier form of new rows.

    Parameters
    ----------
    session
        A write transaction.
    identifiers
        Form of the settings at start.
    now
        Current time, aware.

    Raises
    ------
    StorageError
        If earlier pseudonyms have another key: equal values would no longer have equal pseudonyms.
    """
    changes = _recorded_changes(session)
    check = None if identifiers.key is None else identifiers.pseudonym("digest", "check")
    recorded_key = next((each["key"] for each in changes if each["key"] is not None), None)
    if identifiers.kind != "full" and recorded_key is not None and recorded_key != check:
        raise StorageError(
            "The key of pseudonyms is another one than before: restore your copy of audit.pseudonym_key_file, "
            'or set audit.identifiers = "full", or start a new data_dir.'
        )
    before = changes[0]["kind"] if changes else "full"
    if identifiers.kind != before:
        facts = {"kind": identifiers.kind, "key": check if identifiers.kind != "full" else recorded_key}
        append_event(session, EventKind.IDENTIFIERS_CHANGED, now=now, facts=facts)


def _recorded_changes(session: Session) -> list[dict[str, str | None]]:
    """Return the facts of all recorded changes, latest first."""
    query = select(Event.facts).where(Event.kind == EventKind.IDENTIFIERS_CHANGED).order_by(Event.id.desc())
    facts: Iterable[str] = session.scalars(query)
    return [json.loads(each) for each in facts]
