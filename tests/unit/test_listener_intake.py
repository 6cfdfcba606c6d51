"""Taking in one object: what is written down of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from config.settings import ListenerSettings
from cxr.domain import UnknownView
from db.disk.spool import Spool
from db.engine import open_database
from db.schema.tables import Image
from listener.contexts import Contexts
from listener.dimse_messages import C_STORE_RQ, Command
from listener.intake import Intake, StoreRequest, file_header_of
from listener.reception import Reception

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
EXPLICIT = "1.2.840.10008.1.2.1"


class Clock:
    """A clock that is an hour later at each look."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> datetime:
        self.looks += 1
        return NOON + timedelta(hours=self.looks - 1)


def _encoded(dataset: Dataset) -> bytes:
    """The data set's bytes as they go over the network."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def test_an_object_was_received_when_its_last_byte_came(tmp_path: Path, synthetic_xray: Callable[..., Dataset]) -> None:
    """And not when its row is committed: a slow disk must not move it past an image that came later."""
    spool = Spool(tmp_path / "spool", min_free_mib=0)
    spool.prepare()
    database = open_database(tmp_path / "audit.sqlite", tmp_path / "audit.key", create=True, now=NOON)
    clock = Clock()
    intake = Intake(
        database,
        spool,
        Contexts(ListenerSettings()),
        unknown_view=UnknownView.HOLD,
        max_inflated_bytes=1024 * 1024,
        clock=clock,
    )
    xray = synthetic_xray(rows=64, columns=48)
    command = Command(C_STORE_RQ, 1, True, str(xray.SOPClassUID), str(xray.SOPInstanceUID))
    reception = Reception(spool, file_header_of(command, EXPLICIT), 1024 * 1024)
    reception.write(memoryview(_encoded(xray)))
    taken = intake.store(
        StoreRequest(
            command=command,
            abstract_syntax_uid=str(xray.SOPClassUID),
            transfer_syntax_uid=EXPLICIT,
            calling_ae_title="MODALITY",
            reception=reception,
        )
    )
    with database.read() as session:
        image = session.get(Image, taken.image_id)
        assert image is not None and image.received_at == NOON
    assert clock.looks > 1
    database.dispose()
