"""An object while it arrives: on disk as it comes, refused without being read on, gone when it is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from cxr.errors import ObjectTooLarge, SpoolFull
from db.disk import Spool
from listener.reception import Reception, TransferTooLong

LIMIT = 1000


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool", min_free_mib=1)
    made.prepare()
    return made


def _incoming(spool: Spool) -> list[Path]:
    return list(spool.incoming_dir.iterdir())


def test_the_file_is_header_and_dataset(spool: Spool) -> None:
    reception = Reception(spool, b"header", LIMIT)
    reception.write(memoryview(b"first"))
    reception.write(memoryview(b"second"))
    file = reception.complete()
    assert file.path.read_bytes() == b"headerfirstsecond"
    assert file.digest == blake3(b"firstsecond").hexdigest()
    assert file.size == 11
    spool.keep(file)
    reception.discard()
    assert len(list(spool.names())) == 1


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False), (2 * LIMIT, False)])
def test_beyond_the_limit_it_is_refused_and_gone_while_the_rest_still_comes(
    spool: Spool, size: int, fits: bool
) -> None:
    reception = Reception(spool, b"", LIMIT)
    for _ in range(size):
        reception.write(memoryview(b"x"))
    assert len(_incoming(spool)) == (1 if fits else 0)
    if fits:
        assert reception.complete().size == size
    else:
        with pytest.raises(ObjectTooLarge):
            reception.complete()
    reception.discard()


def test_beyond_twice_the_limit_only_an_abort_helps(spool: Spool) -> None:
    reception = Reception(spool, b"", LIMIT)
    with pytest.raises(TransferTooLong):
        reception.write(memoryview(bytes(2 * LIMIT + 1)))
    assert _incoming(spool) == []


def test_too_little_space_at_the_start_is_kept_for_the_answer(tmp_path: Path) -> None:
    full = Spool(tmp_path / "spool", min_free_mib=10**9)
    full.prepare()
    reception = Reception(full, b"header", LIMIT)
    reception.write(memoryview(b"data"))
    with pytest.raises(SpoolFull, match="min_free_mib"):
        reception.complete()
    assert _incoming(full) == []


def test_a_spool_that_is_gone_is_kept_for_the_answer(spool: Spool) -> None:
    spool.incoming_dir.rmdir()
    reception = Reception(spool, b"header", LIMIT)
    reception.write(memoryview(b"data"))
    with pytest.raises(SpoolFull):
        reception.complete()


def test_what_is_discarded_is_gone(spool: Spool) -> None:
    reception = Reception(spool, b"header", LIMIT)
    reception.write(memoryview(b"data"))
    reception.discard()
    reception.discard()
    assert _incoming(spool) == []
