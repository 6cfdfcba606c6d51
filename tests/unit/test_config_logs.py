"""Logs carry codes, figures and our integers, and nothing else, whoever speaks."""

from __future__ import annotations

import ast
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from config.logs import FIELDS, PACKAGES, configure, describe_exception, get_logger
from config.settings import LogSettings
from cxr.errors import PeerUnreachable, SpoolFull
from inference.delivery.association import Address, context, open_association

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
CANARY = "CANARY^PATIENT"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Configure the logs of this process to a stream, and put everything back."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level, warnings.showwarning, sys.excepthook, threading.excepthook)
    levels = {name: logging.getLogger(name).level for name in PACKAGES}
    raises = logging.raiseExceptions
    written = io.StringIO()
    configure(LogSettings(level="info", format="json"), written)
    yield written
    root.handlers[:], warnings.showwarning = before[0], before[2]
    sys.excepthook, threading.excepthook = before[3], before[4]
    root.setLevel(before[1])
    logging.raiseExceptions = raises
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_has_a_time_level_event_logger_and_its_fields(stream: io.StringIO) -> None:
    get_logger("inference.worker.worker").info("reported", job=7, image=12)
    (record,) = records(stream)
    assert record.pop("timestamp").endswith("Z")
    assert record == {"event": "reported", "level": "info", "logger": "inference.worker.worker", "job": 7, "image": 12}


def test_a_field_that_is_not_listed_is_dropped_and_counted(stream: io.StringIO) -> None:
    get_logger("db.jobs").info("reported", job=7, patient=CANARY, note=CANARY)
    (record,) = records(stream)
    assert record["dropped"] == 2
    assert CANARY not in stream.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        CANARY,
        "Doe, Jane",
        "/var/lib/cxr/x",
        "1.2.840.10008.5.1.4",
        "a" * 81,
        "two words",
        b"bytes",
        {"a": 1},
        Path("x"),
    ],
)
def test_a_value_that_may_be_a_name_path_or_identifier_is_withheld(stream: io.StringIO, value: object) -> None:
    get_logger("db.jobs").info("reported", code=value)
    (record,) = records(stream)
    assert record["code"] == "(withheld)"


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.5, "gpu:0", "peer_busy", "0x0000", "127.0.0.1:11112", "1.2.3", [1, 2]]
)
def test_numbers_and_codes_go_through(stream: io.StringIO, value: object) -> None:
    get_logger("db.jobs").info("reported", code=value)
    assert records(stream)[0]["code"] == value


def test_an_event_that_is_a_sentence_is_withheld(stream: io.StringIO) -> None:
    get_logger("db.jobs").info(f"Stored {CANARY}")
    get_logger("db.jobs").info("stored %s", CANARY)
    assert CANARY not in stream.getvalue()
    assert [record["event"] for record in records(stream)] == ["(withheld)", "(withheld)"]


def test_an_exception_is_its_type_and_place(stream: io.StringIO, unexpected_faults: list[str]) -> None:
    try:
        dcmread(io.BytesIO(CANARY.encode()))
    except InvalidDicomError:
        get_logger("listener.service").exception("unexpected", job=1)
    (record,) = records(stream)
    assert record["error"] == "InvalidDicomError"
    assert record["where"].startswith("pydicom/filereader.py:")
    assert "message" not in record
    unexpected_faults.clear()


def test_our_own_exceptions_bring_their_message_and_the_kind_of_the_cause(stream: io.StringIO) -> None:
    def full() -> None:
        try:
            int(CANARY)
        except ValueError as error:
            raise SpoolFull("Too little space: free some.") from error

    with pytest.raises(SpoolFull) as caught:
        full()
    said = describe_exception(caught.value)
    assert (said["error"], said["cause"]) == ("SpoolFull", "ValueError")
    assert said["message"] == "Too little space: free some."
    get_logger("db.disk.spool").error("spool_full", exc_info=caught.value)
    assert CANARY not in stream.getvalue()
    assert records(stream)[0]["message"] == "Too little space: free some."


def test_other_people_s_records_are_reduced_to_their_origin(stream: io.StringIO) -> None:
    try:
        int(CANARY)
    except ValueError:
        logging.getLogger("pynetdicom.association").exception("Peer is %s", CANARY, stack_info=True)
    logging.getLogger("pydicom").info("quiet")
    (record,) = records(stream)
    assert record["event"] == "third_party"
    assert record["logger"] == "pynetdicom.association"
    assert record["origin"].startswith("unit/test_config_logs.py:")
    assert record["error"] == "ValueError"
    assert CANARY not in stream.getvalue()


def test_a_peer_that_is_down_is_told_by_us_alone(stream: io.StringIO, free_port: Callable[[], int]) -> None:
    address = Address(ae_title="PEER", host="127.0.0.1", port=free_port(), calling_ae_title="CXR", timeout_s=5.0)
    with pytest.raises(PeerUnreachable):
        open_association(address, [context("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])])
    assert records(stream) == []
    try:
        int(CANARY)
    except ValueError:  # as for a TLS handshake that fails, whose kind nobody else tells
        logging.getLogger("pynetdicom.transport").exception("told")
    assert [record["error"] for record in records(stream)] == ["ValueError"]


def test_pydicom_s_own_warning_and_record_lose_their_text(stream: io.StringIO) -> None:
    show = warnings.showwarning
    with warnings.catch_warnings():
        # Entering puts Python's own function back.
        warnings.simplefilter("always")
        warnings.showwarning = show
        dataset = Dataset()
        dataset.PatientBirthDate = CANARY
    assert CANARY not in stream.getvalue()
    kinds = {record["logger"] for record in records(stream)}
    assert "warnings.UserWarning" in kinds
    assert all(record["event"] == "third_party" for record in records(stream))


def test_the_level_is_ours_and_third_parties_start_at_warning(stream: io.StringIO) -> None:
    configure(LogSettings(level="debug", format="json"), stream)
    get_logger("cxr.pixels.model_input").debug("decoded")
    logging.getLogger("somebody.else").info("quiet")
    assert [record["event"] for record in records(stream)] == ["decoded"]
    configure(LogSettings(level="error", format="json"), stream)
    get_logger("cxr.pixels.model_input").warning("decoded")
    assert len(records(stream)) == 1


def test_configuring_twice_does_not_double_records(stream: io.StringIO) -> None:
    configure(LogSettings(format="json"), stream)
    get_logger("app.serve").info("started")
    assert len(records(stream)) == 1


def test_console_lines_are_for_people(stream: io.StringIO) -> None:
    configure(LogSettings(format="console"), stream)
    get_logger("app.serve").info("started", port=11112)
    assert "started" in stream.getvalue()
    assert "port=11112" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_auto_is_json_where_there_is_no_terminal(stream: io.StringIO) -> None:
    configure(LogSettings(format="auto"), stream)
    get_logger("app.serve").info("started")
    assert records(stream)[0]["event"] == "started"


def test_a_bound_logger_keeps_to_the_rules(stream: io.StringIO) -> None:
    get_logger("inference.worker.worker").bind(job=4, patient=CANARY).warning("lease_lost")
    (record,) = records(stream)
    assert (record["job"], record["dropped"]) == (4, 1)


def test_without_configuration_nothing_leaks_either(capfd: pytest.CaptureFixture[str]) -> None:
    get_logger("inference.worker.worker").warning("lease_lost", job=4, patient=CANARY)
    assert CANARY not in "".join(capfd.readouterr())


PROGRAM = """
import threading, warnings
from config.logs import configure
from config.settings import LogSettings
configure(LogSettings(format="json"))
warnings.warn("CANARY")
thread = threading.Thread(target=lambda: int("CANARY"))
thread.start()
thread.join()
raise RuntimeError("CANARY")
"""


def test_uncaught_exceptions_and_warnings_of_a_process_are_records_without_text(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CANARY" not in done.stderr + done.stdout
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [record["event"] for record in said] == ["third_party", "uncaught_in_thread", "uncaught"]
    assert [record.get("error") for record in said] == [None, "ValueError", "RuntimeError"]


def logged(root: Path) -> Iterator[tuple[str, ast.Call]]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                    holder = node.func.value
                    if (holder.id if isinstance(holder, ast.Name) else "") in {"log", "logger"}:
                        yield f"{path.relative_to(root)}:{node.lineno}", node


def test_every_field_that_our_code_logs_is_listed(root: Path) -> None:
    calls = list(logged(root))
    assert len(calls) > 10
    unlisted = {
        f"{place} {keyword.arg}"
        for place, call in calls
        for keyword in call.keywords
        if keyword.arg not in FIELDS | {"exc_info"}
    }
    assert not unlisted


def test_no_call_builds_its_event_or_passes_arguments_to_it(root: Path) -> None:
    built = {
        place
        for place, call in logged(root)
        if len(call.args) != 1 or isinstance(call.args[0], ast.JoinedStr | ast.BinOp)
    }
    assert not built
