"""What an export says of identifiers: pseudonyms unless something else is asked for."""

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
    """Give each row its identifiers in the form of an export.

    Parameters
    ----------
    database
        Knows in which form a row is stored: what is a pseudonym already stays as it is.
    rows
        As they are stored.
    form
        ``pseudonym`` changes values; the other forms leave columns out, which is the writers' part.
    identifiers
        With the key of pseudonyms.

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
            kept = set(session.scalars(select(Identity.image_id).where(Identity.image_id.in_(numbers), _IS_MASKED)))
        for row in batch:
            yield replace(row, study_date=None) if row.image_id in kept else _masked(row, identifiers)


_IS_MASKED = Identity.kind != "full"


def _masked(row: ResultRow, identifiers: Identifiers) -> ResultRow:
    return replace(
        row,
        sop_instance_uid=identifiers.pseudonym("uid", row.sop_instance_uid) or "",
        study_instance_uid=identifiers.pseudonym("uid", row.study_instance_uid),
        series_instance_uid=identifiers.pseudonym("uid", row.series_instance_uid),
        accession_number=identifiers.pseudonym("accession_number", row.accession_number),
        patient_id=identifiers.pseudonym("patient_id", row.patient_id),
        study_date=None,
    )
