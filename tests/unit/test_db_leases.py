"""Leases: one holder at a time, also among processes."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from cxr.domain import PackageStatus
from db.engine import Database
from db.events import verify_chain
from db.models import activations
from db.schema.records import Activation
from db.upkeep import leases


def _hold(database: Database, holder: str, now: datetime) -> bool:
    with database.begin() as session:
        return leases.hold(session, name="maintenance", holder=holder, ttl_s=30, now=now)


def test_a_lease_is_one_holders_until_it_ends(audit_database: Database, noon: datetime) -> None:
    assert _hold(audit_database, "a", noon)
    assert not _hold(audit_database, "b", noon + timedelta(seconds=29))
    assert _hold(audit_database, "a", noon + timedelta(seconds=29))  # renewed
    assert not _hold(audit_database, "b", noon + timedelta(seconds=58))
    assert _hold(audit_database, "b", noon + timedelta(seconds=59))
    assert not _hold(audit_database, "a", noon + timedelta(seconds=59))


def test_a_lease_is_given_back_by_its_holder_only(audit_database: Database, noon: datetime) -> None:
    assert _hold(audit_database, "a", noon)
    with audit_database.begin() as session:
        leases.release_hold(session, name="maintenance", holder="b")
    assert not _hold(audit_database, "b", noon)
    with audit_database.begin() as session:
        leases.release_hold(session, name="maintenance", holder="a")
    assert _hold(audit_database, "b", noon)


def test_leases_of_other_names_are_others(audit_database: Database, noon: datetime) -> None:
    assert _hold(audit_database, "a", noon)
    with audit_database.begin() as session:
        assert leases.hold(session, name="snapshot", holder="b", ttl_s=30, now=noon)


HOLDER = """
import sys
from datetime import datetime
from pathlib import Path
from db.upkeep import leases
from db.engine import open_database
folder, holder, now = Path(sys.argv[1]), sys.argv[2], datetime.fromisoformat(sys.argv[3])
database = open_database(folder / "data/audit.sqlite", folder / "keys/audit.key", create=False)
print("ready", flush=True)
sys.stdin.readline()
with database.begin() as session:
    print(leases.hold(session, name="maintenance", holder=holder, ttl_s=30, now=now))
"""


def test_one_of_several_processes_gets_it(audit_database: Database, tmp_path: Path, noon: datetime) -> None:
    holders = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", HOLDER, str(tmp_path), f"holder{number}", noon.isoformat()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for holder in holders:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
    said = [holder.communicate("go\n", timeout=60)[0] for holder in holders]
    assert sorted(said) == ["False\n", "False\n", "True\n"]


def _activation(noon: datetime, **fields: object) -> Activation:
    given = {
        "fingerprint": "ab" * 32,
        "name": "resnet50",
        "version": "1.0.0",
        "status": PackageStatus.DEMONSTRATION,
        "accepted_gates": ("external_auc", "card"),
        "actor": "operator",
        "reason": "A trial, agreed on paper.",
        "at": noon,
    }
    return Activation(**(given | fields))  # type: ignore[arg-type]


def test_activations_are_listed_latest_first(audit_database: Database, noon: datetime) -> None:
    first = _activation(noon)
    second = _activation(noon + timedelta(days=1), fingerprint="cd" * 32, version="2.0.0", accepted_gates=())
    third = _activation(noon + timedelta(days=2), reason="Back.")
    with audit_database.begin() as session:
        for activation in (first, second, third):
            activations.record_activation(session, activation)
    with audit_database.read() as session:
        assert activations.list_activations(session) == [third, second, first]
        assert activations.list_activations(session, limit=1) == [third]
        assert session.scalar(text("SELECT count(*) FROM models")) == 2
        assert session.scalar(text("SELECT count(*) FROM activations")) == 3
        facts = session.scalars(text("SELECT facts FROM events WHERE kind = 'package_activated'")).all()
        assert verify_chain(session).ok
    assert "accepted_external_auc" in facts[0]
    assert all("operator" not in each and "trial" not in each for each in facts)


def test_results_keep_the_status_they_were_made_under(audit_database: Database, noon: datetime) -> None:
    known = {"fingerprint": "ab" * 32, "name": "resnet50", "version": "1.0.0", "now": noon}
    with audit_database.begin() as session:
        before = activations.record_package(session, status=PackageStatus.DEMONSTRATION, **known)  # type: ignore[arg-type]
        after = activations.record_package(session, status=PackageStatus.EVALUATED, **known)  # type: ignore[arg-type]
        assert activations.record_package(session, status=PackageStatus.DEMONSTRATION, **known) == before  # type: ignore[arg-type]
    assert before != after
