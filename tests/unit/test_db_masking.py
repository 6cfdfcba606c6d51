"""What an export makes of identifiers: rows still meet, and what is a pseudonym already stays it."""

from __future__ import annotations

from typing import Any

from db.engine import Database
from db.events import AUDIT_KEY
from db.identifiers import Identifiers
from db.results.filters import IdentifierForm, ResultFilter
from db.results.masking import mask_identifiers
from db.results.queries import iterate_results

KEYED = Identifiers("pseudonym", bytes(range(32)))


def test_rows_meet_across_forms_of_storage(audit_site: Any) -> None:
    """One patient, stored as received before and as a pseudonym after the setting changed."""
    site = audit_site
    site.receive(1, patient_id="SYN", accession_number="ACC")
    with site.database.read() as session:
        key = session.info[AUDIT_KEY]
    site.database.dispose()
    site.database = Database(site.settings.database_path, key, KEYED)
    site.receive(2, patient_id="SYN", accession_number="ACC")

    def exported(form: IdentifierForm) -> list[Any]:
        return list(mask_identifiers(site.database, iterate_results(site.database, ResultFilter()), form, KEYED))

    first, second = exported(IdentifierForm.PSEUDONYM)
    assert first.patient_id == second.patient_id == KEYED.pseudonym("patient_id", "SYN")
    assert first.accession_number == second.accession_number
    assert first.study_date is second.study_date is None
    assert first.sop_instance_uid != second.sop_instance_uid
    assert next(row.patient_id for row in exported(IdentifierForm.FULL)) == "SYN"
