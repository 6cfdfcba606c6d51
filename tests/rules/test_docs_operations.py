"""What the operations page says of codes, logs and units is what there is: in both directions."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from app.cli import app
from cxr import errors
from cxr.view import REASONS
from cxr.view.decide import PIXEL_REASONS
from db.identifiers import FORGOTTEN
from db.jobs import MISSING_OBJECT
from db.upkeep.retention import PURGED
from inference.delivery.commitment_reports import NO_ADDRESS
from listener.admission import Rejection

PACKAGES = ("app", "config", "cxr", "db", "inference", "listener", "training")
LOUD = {"warning", "error", "exception", "critical"}


@pytest.fixture
def operations(page: Callable[[str], Any]) -> Any:
    return page("operations.md")


def tree_of(error: type[errors.CxrError]) -> Iterator[type[errors.CxrError]]:
    yield error
    for child in error.__subclasses__():
        yield from tree_of(child)


def test_every_error_code_is_explained(operations: Any) -> None:
    rows = {row[0].strip("`"): row for row in operations.tables["Codes of errors"]}
    tree = {error.code: error for error in tree_of(errors.CxrError) if error.__module__ == errors.__name__}
    # Codes without a class: a lost file, a forgotten patient, a peer without address, a file of the command line.
    assert set(rows) == set(tree) | {MISSING_OBJECT, FORGOTTEN, NO_ADDRESS, "unreadable_file"}
    for code, error in tree.items():
        if code != errors.CxrError.code:  # the worker tries once more after a fault that nobody foresaw
            assert (rows[code][1] == "yes") is error.retryable, code


def test_every_reason_is_explained(operations: Any) -> None:
    assert set(operations.column("Reasons")) == {*REASONS, *PIXEL_REASONS, PURGED, FORGOTTEN, "not_dicom"}


def test_every_fault_of_the_check_is_explained(operations: Any, root: Path) -> None:
    found = set(re.findall(r'code="([a-z_]+)"', (root / "db" / "upkeep" / "integrity.py").read_text()))
    assert found
    assert set(operations.column("Faults of `cxr db check`")) == found


def test_every_refusal_is_named(operations: Any, root: Path) -> None:
    said = operations.text.partition("### Refused associations")[2].partition("## ")[0]
    elsewhere = re.findall(
        r'\.record_refusal\("([a-z_]+)"', (root / "listener" / "transport" / "new_connection.py").read_text()
    )
    assert elsewhere
    for code in (*(each.code for each in Rejection), *elsewhere):
        assert f"`{code}`" in said


def loud_events(root: Path) -> Iterator[str]:
    """Names of all events of ours that are a warning or worse."""
    for path in (path for package in PACKAGES for path in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOUD
            if is_call and "log" in ast.unparse(node.func.value) and node.args:  # type: ignore[attr-defined]
                event = node.args[0]  # type: ignore[attr-defined]
                if isinstance(event, ast.Constant):
                    yield str(event.value)
            if isinstance(node, ast.keyword) and node.arg == "warning" and isinstance(node.value, ast.Constant):
                yield str(node.value.value)  # of inference.model.model.devices.DeviceChoice
            if isinstance(node, ast.FunctionDef) and node.name == "_warn":
                continue
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("._warn"):
                yield str(node.args[0].value)  # type: ignore[attr-defined]


def test_every_loud_event_of_the_log_is_explained(operations: Any, root: Path) -> None:
    assert set(operations.codes("Logs")) == set(loud_events(root))


@pytest.mark.parametrize("unit", ["cxr-listen", "cxr-work"])
def test_units_run_verbs_that_exist(root: Path, unit: str, tmp_path: Path) -> None:
    text = (root / "docs" / "systemd" / f"{unit}.service").read_text()
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    service = parser["Service"]
    *_, verb = service["ExecStart"].split()
    assert verb in typer.main.get_command(app).list_commands(None)  # type: ignore[arg-type]
    assert service["User"] not in ("", "root")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; everything else of the unit was checked")
    here = tmp_path / f"{unit}.service"
    here.write_text(text.replace("/opt/cxr/bin/cxr", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if unit in line] == []
