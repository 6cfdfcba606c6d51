"""A notebook that keeps a transaction open on audit-read.sqlite stops nobody."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from pydicom.dataset import Dataset


@pytest.mark.long
def test_no_c_store_waits_for_a_transaction_on_the_snapshot(
    service: Callable[..., Any], synthetic_xray: Callable[..., Dataset], wait_for: Any
) -> None:
    installation = service("[audit]\nsnapshot_every_s = 1\n")
    snapshot = installation.folder / "var" / "audit-read.sqlite"
    installation.start("serve")
    assert installation.send(synthetic_xray(seed=0)) == [0]
    wait_for(lambda: snapshot.exists() and snapshot.stat().st_size, "the first snapshot", 180)
    slowest, sent = 0.0, 0
    with closing(sqlite3.connect(snapshot, isolation_level=None)) as notebook:
        notebook.execute("BEGIN")
        before = notebook.execute("SELECT count(*) FROM images").fetchone()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            sent += 1
            begun = time.monotonic()
            assert installation.send(synthetic_xray(seed=sent)) == [0]
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.5)
        assert notebook.execute("SELECT count(*) FROM images").fetchone() == before
    # SQLite's busy timeout is 30 s: a C-STORE that waited for the reader would have taken that long.
    assert slowest < 10
    installation.wait_until_finished(sent + 1)

    def is_fresh() -> bool:
        with closing(sqlite3.connect(snapshot)) as again:
            return bool(again.execute("SELECT count(*) FROM images").fetchone() == (sent + 1,))

    wait_for(is_fresh, "the snapshot is replaced under the reader", 180)
