"""The SQLite library of the process is pysqlite3's own, whatever was imported before it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from db.sqlite.driver import DRIVER, sqlite3
connection = sqlite3.connect(":memory:")
print(DRIVER, connection.execute("SELECT sqlite_version()").fetchone()[0])
"""


@pytest.mark.parametrize("first", ["tensorflow", "openvino", "sqlite3"])
def test_tensorflow_lends_its_sqlite_to_nobody(first: str, root: Path) -> None:
    """TensorFlow exports a SQLite of its own; the journal is chosen by the library's version."""
    pytest.importorskip("pysqlite3")

    def library(*imports: str) -> str:
        command = [sys.executable, "-c", PROGRAM, *imports]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=120).stdout

    driver, version = library().rsplit(" ", 1)
    assert driver.endswith(version.strip())
    assert library(first) == library()
    assert library("db.sqlite.driver", first) == library()
