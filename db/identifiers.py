"""In which form identifiers are stored: as received, as keyed pseudonyms, or not at all.

A pseudonym is an HMAC-SHA256 under a key of its own, in a file outside the database's folder: equal
values have equal pseudonyms, so images still join by patient, study and accession number, and nobody
without the key can try values out. Rows keep the form they were written in; whoever looks for a value
looks for each of its forms.

``none`` keeps one keyed value alone, that of the SOP Instance UID: without it a resend would be a new
image, and nobody could be told whether an object is kept.
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

IDENTIFIERS = "identifiers"  # where a session's info carries them
FORGOTTEN = "forgotten"

Kind = Literal["full", "pseudonym", "none"]
IdentifierType = Literal["uid", "patient_id", "issuer_of_patient_id", "accession_number", "digest"]

_LENGTHS = {"patient_id": 32, "issuer_of_patient_id": 32, "accession_number": 16, "digest": 64}  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Identifiers:
    """The form that new rows get, and the key that pseudonyms are made with.

    Parameters
    ----------
    kind
        The setting ``audit.identifiers``.
    key
        32 bytes; None: no pseudonym was ever made here.
    """

    kind: Kind = "full"
    key: bytes | None = None

    def pseudonym(self, what: IdentifierType, value: str | None) -> str | None:
        """Return the keyed form of a value; a UID's is a UID again (2.25, PS3.5 Section B.2).

        Raises
        ------
        StorageError
            If there is no key.
        """
        if value is None:
            return None
        if self.key is None:
            raise StorageError("There is no key for pseudonyms: restore your copy of audit.pseudonym_key_file.")
        made = hmac.new(self.key, f"{what}\0{value}".encode(), hashlib.sha256)
        if what == "uid":
            return f"2.25.{UUID(bytes=made.digest()[:16], version=5).int}"
        return made.hexdigest()[: _LENGTHS[what]]

    def forms(self, what: IdentifierType, value: str) -> tuple[str, ...]:
        """List what a value may be stored as: itself, and its pseudonym where there is a key."""
        keyed = self.pseudonym(what, value) if self.key is not None else None
        return (value,) if keyed is None else (value, keyed)

    def is_same(self, what: IdentifierType, stored: str | None, given: str | None) -> bool:
        """Whether a stored value is, in any of its forms, the given one."""
        if stored is None or given is None:
            return stored is given
        return stored in self.forms(what, given)

    def stored(self, receipt: Receipt) -> Receipt:
        """Return a receipt as it is to be stored."""
        if self.kind == "full":
            return receipt
        return replace(
            receipt,
            header=self._stored_header(receipt.header),
            dataset_digest=self.pseudonym("digest", receipt.dataset_digest) or "",
            pixel_digest=self.pseudonym("digest", receipt.pixel_digest),
        )

    def _stored_header(self, header: ImageHeader) -> ImageHeader:
        kept = replace(
            header,
            sop_instance_uid=self.pseudonym("uid", header.sop_instance_uid) or "",
            study_instance_uid=self.pseudonym("uid", header.study_instance_uid),
            series_instance_uid=self.pseudonym("uid", header.series_instance_uid),
            accession_number=self.pseudonym("accession_number", header.accession_number),
            patient_id=self.pseudonym("patient_id", header.patient_id),
            issuer_of_patient_id=self.pseudonym("issuer_of_patient_id", header.issuer_of_patient_id),
            identity_digest=self.pseudonym("digest", header.identity_digest) or "",
            study_date=None,
            body_part_examined=None,  # a peer's text; what was understood of it is in the decision
        )
        if self.kind == "pseudonym":
            return kept
        nothing = dict.fromkeys(
            ("study_instance_uid", "series_instance_uid", "accession_number", "patient_id", "issuer_of_patient_id")
        )
        return replace(kept, **nothing)  # type: ignore[arg-type]


AS_RECEIVED = Identifiers()


def of_session(session: Session) -> Identifiers:
    """Return what a session's database was opened with."""
    found: Identifiers = session.info.get(IDENTIFIERS, AS_RECEIVED)
    return found


def load_identifiers(kind: Kind, key_file: Path, *, create: bool) -> Identifiers:
    """Read the key of pseudonyms.

    Parameters
    ----------
    kind
        The setting ``audit.identifiers``.
    key_file
        The setting ``audit.pseudonym_key_file``: 64 hexadecimal digits, mode 0600.
    create
        Whether to make a key where there is none.

    Raises
    ------
    StorageError
        If the file can't be read or made, is open to other accounts, or holds no key.
    """
    key = load_or_create_key(key_file) if create or key_file.exists() else None
    return Identifiers(kind, key)


def record_identifier_form(session: Session, identifiers: Identifiers, *, now: datetime) -> None:
    """Write down the form of what is received from now on, if it is another than before.

    Parameters
    ----------
    session
        A write transaction.
    identifiers
        What the service was started with.
    now
        The time.

    Raises
    ------
    StorageError
        If pseudonyms were made here under another key: they would never meet the new ones.
    """
    last = _last_declared(session)
    check = None if identifiers.key is None else identifiers.pseudonym("digest", "check")
    known = next((each["key"] for each in last if each["key"] is not None), None)
    if identifiers.kind != "full" and known is not None and known != check:
        raise StorageError(
            "The key of pseudonyms is another one than before: restore your copy of audit.pseudonym_key_file, "
            'or set audit.identifiers = "full", or start a new data_dir.'
        )
    before = last[0]["kind"] if last else "full"
    if identifiers.kind != before:
        facts = {"kind": identifiers.kind, "key": check if identifiers.kind != "full" else known}
        append_event(session, EventKind.IDENTIFIERS_CHANGED, now=now, facts=facts)


def _last_declared(session: Session) -> list[dict[str, str | None]]:
    """Facts of all such events, the latest first."""
    query = select(Event.facts).where(Event.kind == EventKind.IDENTIFIERS_CHANGED).order_by(Event.id.desc())
    facts: Iterable[str] = session.scalars(query)
    return [json.loads(each) for each in facts]
