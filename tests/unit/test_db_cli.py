"""The verbs on the audit database, as a person and a script use them."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.cli import main
from cxr.domain import DeliveryState, JobState, View
from db.events.log import EventKind, append_event
from db.sqlite.driver import sqlite3
from db.upkeep.exported_heads import export_head

Cxr = Callable[..., "Done"]


@pytest.fixture
def site(audit_site: Any) -> Any:
    """One delivered result, one dead delivery, a lateral, a held and a failed image."""
    audit_site.receive(1, accession_number="ACC-ONE")
    audit_site.score(scores={"covid19": 0.9, "normal": 0.1}, destinations=["pacs"])
    audit_site.deliver(outcome=DeliveryState.VERIFIED)
    audit_site.later(days=1)
    audit_site.receive(2)
    audit_site.score(scores={"covid19": 0.2, "normal": 0.8}, destinations=["pacs"])
    audit_site.deliver(outcome=DeliveryState.DEAD)
    audit_site.receive(3, state=JobState.NOT_SCORED, view=View.NOT_FRONTAL, reason="view_position_not_frontal")
    audit_site.receive(4)
    audit_site.fail()
    audit_site.receive(5, state=JobState.HELD, view=View.UNKNOWN, reason="view_unknown")
    return audit_site


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cxr(audit_site: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cxr:
    """Run the command on this installation, as the installed script does, in this process."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["cxr", "--set", f"data_dir={audit_site.settings.data_dir}", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run


def lines(done: Done) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def states(site: Any) -> list[str]:
    with closing(sqlite3.connect(site.database.path)) as live:
        return [state for (state,) in live.execute("SELECT state FROM jobs ORDER BY job_id")]


# audit


def test_audit_list_json_has_the_interface_and_no_patient(site: Any, cxr: Cxr) -> None:
    rows = lines(cxr("audit", "list", "--json"))
    assert [(row["image_id"], row["finding"]) for row in rows] == [
        (5, None), (4, None), (3, None), (2, "covid19"), (2, "normal"), (1, "covid19"), (1, "normal"),
    ]  # fmt: skip
    interface = {
        "sop_instance_uid", "study_instance_uid", "accession_number", "received_at", "state", "view", "reason",
        "finding", "score", "model", "fingerprint", "error_code",
    }  # fmt: skip
    assert all(interface <= set(row) and "patient_id" not in row for row in rows)
    assert rows[-1]["received_at"] == "2026-01-10T12:00:00.250Z"
    assert rows[1]["error_code"] == "damaged_pixels"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--finding", "covid19", "--min-score", "0.5"], [1]),
        (["--finding", "covid19", "--max-score", "0.5"], [2]),
        (["--view", "not_frontal"], [3]),
        (["--reason", "view_unknown"], [5]),
        (["--state", "failed"], [4]),
        (["--error-code", "damaged_pixels"], [4]),
        (["--accession", "ACC-ONE", "--finding", "normal"], [1]),
        (["--patient-id", "SYN3"], [3]),
        (["--peer", "NOBODY"], []),
        (["--model", "resnet50", "--fingerprint", "00", "--latest"], []),
        (["--undelivered", "--finding", "normal"], [2]),
        (["--delivered", "--finding", "normal"], [1]),
        (["--since", "2026-01-11T12:00:00+0000", "--limit", "1", "--before", "5"], [4]),
        (["--until", "2026-01-11T00:00:00+0000", "--finding", "normal"], [1]),
    ],
)
def test_audit_list_filters(site: Any, cxr: Cxr, options: list[str], expected: list[int]) -> None:
    assert [row["image_id"] for row in lines(cxr("audit", "list", "--json", *options))] == expected


@pytest.mark.parametrize(
    ("ae_title", "bound", "expected"), [("MODALITY", "", [6, 2]), ("MODALITY", "MODALITY", [2]), ("OTHER", "", [2])]
)
def test_undelivered_lists_images_whose_sender_is_the_only_destination(
    site: Any, cxr: Cxr, tmp_path: Path, ae_title: str, bound: str, expected: list[int]
) -> None:
    site.receive(6, peer="MODALITY")
    site.score(scores={"covid19": 0.2, "normal": 0.8}, destinations=[])
    settings = tmp_path / "site.toml"
    settings.write_text(
        f'[[destinations]]\nname = "pacs"\nkind = "dicom"\naddress = "{ae_title}@127.0.0.1:104"\n'
        + (f'from_peers = ["{bound}"]\n' if bound else "")
    )
    options = ("--config", str(settings), "audit", "list", "--undelivered", "--finding", "normal", "--json")
    assert [row["image_id"] for row in lines(cxr(*options))] == expected


def test_a_day_without_a_time_is_a_local_day_and_the_last_one_is_included() -> None:
    from db.cli import result_options

    begin, end = result_options._time("2026-01-10"), result_options._until("2026-01-10")
    assert begin == datetime(2026, 1, 10).astimezone()
    assert end - begin == timedelta(days=1)
    assert result_options._until("2026-01-10T08:30:00+0000") == datetime(2026, 1, 10, 8, 30, tzinfo=UTC)


def test_audit_list_as_a_table_says_when_there_is_more(site: Any, cxr: Cxr) -> None:
    done = cxr("audit", "list", "--limit", "2")
    assert done.returncode == 0
    assert "view_unknown" in done.stdout
    assert "damaged_pixels" in done.stdout
    assert "covid19" not in done.stdout
    assert "2 rows, and there are more" in done.stderr
    assert cxr("audit", "list", "--limit", "7").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["audit", "list", "--since", "yesterday"], "2026-01-31"),
        (["audit", "list", "--min-score", "2"], "less than or equal to 1"),
        (["audit", "list", "--state", "done"], "reported"),
        (["audit", "export", "--format", "parquet"], "--out"),
        (["audit", "verify", "--heads", "/nowhere"], "no such file"),
        (["jobs", "release"], "--all"),
        (["jobs", "requeue"], "--all"),
        (["jobs", "purge", "--state", "queued", "--older-than", "1", "--yes"], "held"),
        (["jobs", "purge", "--state", "failed", "--older-than", "1"], "--yes"),
    ],
)
def test_a_wrong_command_is_exit_code_2_and_says_what_is_right(
    site: Any, cxr: Cxr, arguments: list[str], word: str
) -> None:
    done = cxr(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in re.sub(r"[\s│]+", " ", done.stderr)
    assert states(site) == ["reported", "reported", "not_scored", "failed", "held"]


def test_audit_show_tells_the_whole_story(site: Any, cxr: Cxr, uid_of: Any) -> None:
    (story,) = lines(cxr("audit", "show", "1", "--json"))
    (same,) = lines(cxr("audit", "show", uid_of(1), "--json"))
    assert story == same
    assert story["image"]["accession_number"] == "ACC-ONE"
    assert [score["finding"] for score in story["scores"]] == ["covid19", "normal"]
    assert story["deliveries"][0]["state"] == "verified"
    assert story["events"][0]["kind"] == "received"
    table = cxr("audit", "show", "1")
    assert table.returncode == 0
    assert all(word in table.stdout for word in ("ACC-ONE", "covid19", "verified", "delivery_sent"))


def test_audit_show_of_an_unknown_image_is_exit_code_1(site: Any, cxr: Cxr) -> None:
    done = cxr("audit", "show", "99")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cxr audit list" in done.stderr
    assert "Traceback" not in done.stderr


def test_audit_export_names_nobody_unless_asked(site: Any, cxr: Cxr, tmp_path: Path, uid_of: Any) -> None:
    plain = cxr("audit", "export", "--finding", "covid19")
    rows = list(csv.DictReader(io.StringIO(plain.stdout)))
    assert [row["score"] for row in rows] == ["0.9", "0.2"]
    assert not [word for word in ("SYN1", "ACC-ONE", uid_of(1), "20260110") if word in plain.stdout]
    assert rows[0]["patient_id"] != rows[1]["patient_id"]
    assert cxr("audit", "export", "--finding", "covid19").stdout == plain.stdout  # the same pseudonyms again
    uids = cxr("audit", "export", "--finding", "covid19", "--identifiers", "uids")
    assert uid_of(1) in uids.stdout
    assert "ACC-ONE" not in uids.stdout
    assert uid_of(1) not in cxr("audit", "export", "--identifiers", "none").stdout
    out = tmp_path / "out.json"
    done = cxr("audit", "export", "--format", "json", "--identified", "--out", str(out), "--state", "failed")
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 rows" in done.stderr
    assert [json.loads(line)["patient_id"] for line in out.read_text().splitlines()] == ["SYN4"]
    assert out.stat().st_mode & 0o777 == 0o600


def test_audit_export_writes_parquet(site: Any, cxr: Cxr, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    assert cxr("audit", "export", "--format", "parquet", "--out", str(out)).returncode == 0
    assert parquet.read_table(out).column("image_id").to_pylist() == [1, 1, 2, 2, 3, 4, 5]


def test_an_export_that_fails_leaves_the_old_file_and_no_half_one(site: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.csv").write_text("old")
    with closing(sqlite3.connect(site.database.path)) as live:
        live.execute("DROP VIEW results")
    script = Path(sys.executable).with_name("cxr")
    arguments = ["--set", f"data_dir={site.settings.data_dir}", "audit", "export", "--out", "out/results.csv"]
    done = subprocess.run([script, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["old"]


def test_an_export_into_no_folder_is_said_in_words(site: Any, cxr: Cxr, tmp_path: Path) -> None:
    done = cxr("audit", "export", "--out", str(tmp_path / "nowhere" / "results.csv"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "--out" in done.stderr


def test_audit_verify_names_the_first_broken_event(site: Any, cxr: Cxr) -> None:
    whole = cxr("audit", "verify")
    assert whole.returncode == 0
    assert "all as they were written" in whole.stdout
    with closing(sqlite3.connect(site.database.path, isolation_level=None)) as live:
        live.execute("DROP TRIGGER event_no_update")
        live.execute("UPDATE event SET facts = '{}' WHERE id IN (6, 9)")
    broken = cxr("audit", "verify")
    assert broken.returncode == 1
    assert "Event 6 " in broken.stdout
    report = cxr("audit", "verify", "--json")
    assert report.returncode == 1
    assert json.loads(report.stdout)["first_broken_id"] == 6


def test_audit_verify_finds_a_cut_tail_by_heads_kept_elsewhere(site: Any, cxr: Cxr, tmp_path: Path) -> None:
    with site.database.begin() as session:
        append_event(session, EventKind.SERVICE_STARTED, now=site.now)  # seals no row, which would tell as well
    head = export_head(site.database, tmp_path / "kept" / "audit.heads", now=site.now)
    assert head is not None
    with closing(sqlite3.connect(site.database.path, isolation_level=None)) as live:
        live.execute("DROP TRIGGER event_no_delete")
        live.execute("DELETE FROM event WHERE id = ?", (head.id,))
    assert cxr("audit", "verify").returncode == 0
    done = cxr("audit", "verify", "--heads", str(tmp_path / "kept" / "audit.heads"))
    assert done.returncode == 1
    assert f"Event {head.id} " in done.stdout


def test_audit_snapshot_makes_the_copy_and_says_where(site: Any, cxr: Cxr, tmp_path: Path) -> None:
    done = cxr("audit", "snapshot")
    assert (done.returncode, done.stdout) == (0, f"{site.settings.snapshot_path}\n")
    assert cxr("audit", "snapshot", "--to", str(tmp_path / "mine.sqlite")).returncode == 0
    for path in (site.settings.snapshot_path, tmp_path / "mine.sqlite"):
        with closing(sqlite3.connect(path)) as copy:
            assert copy.execute("SELECT count(*) FROM images").fetchone() == (5,)


# jobs


def test_jobs_list_shows_what_waits(site: Any, cxr: Cxr) -> None:
    assert [(row["id"], row["state"]) for row in lines(cxr("jobs", "list", "--state", "held", "--json"))] == [
        (5, "held")
    ]
    assert [row["id"] for row in lines(cxr("jobs", "list", "--json", "--limit", "2"))] == [5, 4]
    (dead,) = lines(cxr("jobs", "list", "--dead-deliveries", "--json"))
    assert (dead["destination"], dead["error_code"], dead["status"]) == ("pacs", "peer_refused", 0xA900)
    table = cxr("jobs", "list")
    assert "view_unknown" in table.stdout
    assert "1 held" in table.stderr


def test_jobs_say_when_the_disk_takes_nothing(cxr: Cxr, site: Any) -> None:
    assert cxr("jobs", "list", "--json").stderr == ""
    done = cxr("--set", "listener.min_free_mib=1000000000", "jobs", "list", "--json")
    assert len(lines(done)) == 5
    assert "less than listener.min_free_mib = 1000000000" in done.stderr
    incoming = site.settings.spool_dir / "incoming"
    assert list(incoming.iterdir()) == []
    incoming.rename(incoming.with_name("away"))
    assert "mount the spool's disk" in cxr("jobs", "list").stderr


def test_jobs_release_by_number_and_all(site: Any, cxr: Cxr) -> None:
    site.receive(6, state=JobState.HELD)
    site.receive(7, state=JobState.HELD)
    done = cxr("jobs", "release", "5")
    assert (done.returncode, done.stdout) == (0, "1 released\n")
    assert states(site)[4:] == ["queued", "held", "held"]
    assert cxr("jobs", "release", "--all").stdout == "2 released\n"
    assert states(site)[4:] == ["queued"] * 3
    assert cxr("jobs", "release", "--all").stdout == "0 released\n"


def test_db_check_finds_what_others_can_read(site: Any, cxr: Cxr) -> None:
    assert cxr("db", "check").returncode == 0
    site.database.path.chmod(0o644)
    done = cxr("db", "check")
    assert done.returncode == 1
    assert f"open_to_others: data_dir: others can read or write {site.database.path.name} (mode 0644)" in done.stdout
    assert "1 fault; " in done.stdout
    site.database.path.chmod(0o600)


def test_listings_and_changes_of_all_jobs_read_a_long_history_in_pages(
    site: Any, cxr: Cxr, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (6, 7, 8):
        site.receive(seed, state=JobState.HELD, view=View.UNKNOWN, reason="view_unknown")
    monkeypatch.setattr("db.cli.jobs._PAGE", 2)
    reads: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if statement.startswith("SELECT job.id, job.image_id"):
            reads.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert [row["id"] for row in lines(cxr("jobs", "list", "--json", "--limit", "0"))] == [8, 7, 6, 5, 4, 3, 2, 1]
        assert len(reads) == 5  # the last finds nothing
        assert [row["id"] for row in lines(cxr("jobs", "list", "--json", "--limit", "3"))] == [8, 7, 6]
        assert [row["id"] for row in lines(cxr("jobs", "list", "--json", "--limit", "3", "--state", "held"))] == [
            8,
            7,
            6,
        ]
        assert cxr("jobs", "release", "--all").stdout == "4 released\n"
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert states(site)[4:] == ["queued"] * 4


def test_what_cannot_be_released_is_said_and_the_rest_is(site: Any, cxr: Cxr) -> None:
    done = cxr("jobs", "release", "99", "1", "5")
    assert (done.returncode, done.stdout) == (1, "1 released\n")
    assert "99" in done.stderr
    assert "Job 1 is reported" in done.stderr
    assert states(site)[4] == "queued"


def test_jobs_requeue_failed_jobs_and_dead_deliveries(site: Any, cxr: Cxr) -> None:
    assert cxr("jobs", "requeue", "4").stdout == "1 requeued\n"
    assert states(site)[3] == "queued"
    site.fail()
    assert cxr("jobs", "requeue", "--all").stdout == "1 requeued\n"
    assert cxr("jobs", "requeue", "--dead-deliveries").stdout == "1 requeued\n"
    assert lines(cxr("jobs", "list", "--dead-deliveries", "--json")) == []
    refused = cxr("jobs", "requeue", "--dead-deliveries", "1")
    assert (refused.returncode, refused.stdout) == (1, "0 requeued\n")


def test_jobs_purge_on_an_operators_word(site: Any, cxr: Cxr) -> None:
    done = cxr("jobs", "purge", "--state", "failed", "--state", "held", "--older-than", "0", "--yes")
    # The rows are of January 2026: whatever the machine's clock says now, they are older.
    assert (done.returncode, done.stdout) == (0, "2 purged\n")
    assert states(site)[3:] == ["not_scored", "not_scored"]


# db


def test_db_check_finds_a_missing_file(site: Any, cxr: Cxr) -> None:
    done = cxr("db", "check")
    assert done.returncode == 0, done.stdout
    assert "0 faults" in done.stdout
    with site.database.read() as session:
        from db.schema.tables import Image

        site.spool.path(session.get_one(Image, 5).spool_name).unlink()
    faulty = cxr("db", "check", "--json")
    assert faulty.returncode == 1
    assert json.loads(faulty.stdout)["code"] == "missing_file"


def test_db_backup_says_where_and_removes_none(site: Any, cxr: Cxr, tmp_path: Path) -> None:
    done = cxr("db", "backup", "--to", str(tmp_path / "elsewhere"))
    assert done.returncode == 0
    made = Path(done.stdout.strip())
    assert made.parent == tmp_path / "elsewhere"
    with closing(sqlite3.connect(made)) as copy:
        assert copy.execute("SELECT count(*) FROM images").fetchone() == (5,)


def test_db_upgrade_of_a_current_database_changes_nothing(site: Any, cxr: Cxr) -> None:
    before = states(site)
    done = cxr("db", "upgrade")
    assert done.returncode == 0
    assert "as before" in done.stdout
    assert states(site) == before


@pytest.mark.parametrize(
    "verb",
    [["audit", "list"], ["audit", "verify"], ["jobs", "list"], ["db", "check"], ["db", "backup"], ["db", "upgrade"]],
)
def test_without_a_database_it_is_said_and_none_is_made(tmp_path: Path, cxr: Cxr, verb: list[str]) -> None:
    done = cxr("--set", f"data_dir={tmp_path / 'other'}", *verb)
    assert (done.returncode, done.stdout) == (1, "")
    assert "start the service" in done.stderr
    assert not (tmp_path / "other" / "audit.sqlite").exists()


def test_a_faulty_database_is_said_in_words(site: Any, cxr: Cxr) -> None:
    site.database.dispose()
    site.database.path.write_bytes(b"\xff" * 8192)
    done = cxr("db", "check")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "damaged_file: " in done.stdout


@pytest.mark.parametrize(
    "verb",
    ["audit list", "audit show", "audit export", "audit verify", "audit snapshot", "jobs list", "jobs requeue",
     "jobs release", "jobs purge", "db upgrade", "db check", "db backup"],
)  # fmt: skip
def test_every_verb_has_help_with_an_example(cxr: Cxr, verb: str) -> None:
    done = cxr(*verb.split(), "--help")
    assert done.returncode == 0
    assert f"Example: cxr {verb}" in done.stdout


def in_terminal(command: list[str], width: int) -> str:
    """What a command prints on a terminal of this width."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {"PATH": os.defpath, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "app", *command],
        stdout=other,
        stderr=other,
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    os.close(other)
    chunks = []
    with suppress(OSError):  # EIO: the command has ended
        while chunk := os.read(main, 65536):
            chunks.append(chunk)
    os.close(main)
    assert process.wait(60) == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode()).replace("\r", "")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("verb", [["audit", "list"], ["audit", "show", "1"], ["jobs", "list"]], ids=" ".join)
def test_tables_fit_a_terminal_and_break_no_word(site: Any, verb: list[str], width: int) -> None:
    said = in_terminal(["--data-dir", str(site.settings.data_dir), *verb], width)
    assert max(map(len, said.splitlines())) <= width
    assert "\u2026" not in said
    if verb != ["audit", "show", "1"]:
        for word in ("received", "state", "reason"):
            assert word in said
        states = {str(state) for state in JobState}
        assert set(re.findall(r"[a-z_]+", said)) & states, "whole words"


def test_wide_prints_every_column_and_a_narrow_table_names_those_left_out(site: Any) -> None:
    options = ["--data-dir", str(site.settings.data_dir), "audit", "list"]
    narrow, wide = in_terminal(options, 80), in_terminal([*options, "--wide"], 80)
    assert "Left out: model, sender" in narrow
    assert "--wide shows them" in narrow
    assert "Left out" not in wide
    for name in ("model", "sender", "delivered", "error_code"):
        assert name in wide.splitlines()[0]


def test_follow_prints_what_comes(site: Any, wait_for: Any) -> None:
    environment = {"PATH": os.defpath, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    command = [
        sys.executable,
        "-P",
        "-m",
        "app",
        "--data-dir",
        str(site.settings.data_dir),
        "audit",
        "list",
        "--follow",
    ]
    # A process that a script starts in the background ignores SIGINT, and so would its children.
    before_test = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, env=environment, text=True)
    finally:
        signal.signal(signal.SIGINT, before_test)
    with process:
        assert process.stdout is not None
        try:
            before = json.loads(process.stdout.readline())
            number = site.receive(77).image_id
            while (row := json.loads(process.stdout.readline()))["image_id"] != number:
                assert row["image_id"] >= before["image_id"]
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()
