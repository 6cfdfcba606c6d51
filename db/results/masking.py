"""Pseudonyms for identifiers in exports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from sqlalchemy import select

from db.engine import Database
from db.identifiers import Identifiers
from db.results.filters import IdentifierForm
from db.schema.records import ResultRow
from db.schema.tables import Identity

_BATCH = 1000


def mask_identifiers(
    database: Database, rows: Iterable[ResultRow], form: IdentifierForm, identifiers: Identifiers
) -> Iterator[ResultRow]:
    """Convert the identifiers of rows to the form of an export.

    Parameters
    ----------
    database
        The audit database, which stores the form of each row: stored pseudonyms stay unchanged.
    rows
        Stored rows.
    form
        ``pseudonym`` converts values; for other forms the writers omit columns.
    identifiers
        Contains the key of pseudonyms.

    Yields
    ------
    ResultRow
        In the same order.
    """
    if form is not IdentifierForm.PSEUDONYM:
        yield from rows
        return
    source = iter(rows)
    while batch := list(islice(source, _BATCH)):
        numbers = {row.image_id for row in batch}
        with database.read() as session:
            pseudonymous = set(
                session.scalars(select(Identity.image_id).where(Identity.image_id.in_(numbers), _IS_MASKED))
            )
        for row in batch:
            yield replace(row, study_date=None) if row.image_id in pseudonymous else _mask_row(row, identifiers)


_IS_MASKED = Identity.kind != "full"


def _mask_row(row: ResultRow, identifiers: Identifiers) -> ResultRow:
    return replace(
        row,
        sop_instance_uid=identifiers.pseudonym("uid", row.sop_instance_uid) or "",
        study_instance_uid=identifiers.pseudonym("uid", row.study_instance_uid),
        series_instance_uid=identifiers.pseudonym("uid", row.series_instance_uid),
        accession_number=identifiers.pseudonym("accession_number", row.accession_number),
        patient_id=identifiers.pseudonym("patient_id", row.patient_id),
        study_date=None,
    )
