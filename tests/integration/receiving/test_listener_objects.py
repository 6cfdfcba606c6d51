"""What becomes of objects: kept as received, recorded, recognised when they come again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pytest
from blake3 import blake3
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian

from cxr.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES
from cxr.domain import JobState, UnknownView
from cxr.errors import MissingObject
from db import jobs
from db.schema.records import ClaimedJob
from db.upkeep import integrity, retention
from listener.contexts import TRANSFER_SYNTAXES

CR = "1.2.840.10008.5.1.4.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

Xray = Callable[..., Dataset]


def test_a_frontal_is_kept_as_received_with_its_row(
    listening: Any, scu: Any, synthetic_xray: Xray, encode_dataset: Any
) -> None:
    running = listening()
    xray = synthetic_xray()
    with scu(running.port) as peer:
        assert peer.store_dataset(xray) == 0x0000

    (image,) = running.images()
    assert (image["state"], image["view"], image["reason"]) == ("queued", "frontal", "view_position_frontal")
    assert image["peer_ae_title"] == "MODALITY"
    ((name, content),) = running.kept().items()
    sent = encode_dataset(xray)
    assert image["spool_name"] == name
    assert content.endswith(sent)
    assert image["size_bytes"] == len(sent)
    assert image["dataset_digest"] == blake3(sent).hexdigest()
    assert image["pixel_digest"] == blake3(xray.PixelData).hexdigest()
    meta = dcmread(running.spool.path(name)).file_meta
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.MediaStorageSOPInstanceUID == xray.SOPInstanceUID
    assert running.incoming() == []
    assert running.count("cxr_received_objects_total", outcome="queued") == 1
    assert running.count("cxr_received_bytes_total") == len(sent)


@pytest.mark.parametrize(
    ("elements", "state", "reason"),
    [
        ({"ViewPosition": "LL", "PatientOrientation": None}, "not_scored", "view_position_not_frontal"),
        ({"BodyPartExamined": "HAND"}, "not_scored", "body_part_not_chest"),
        ({"ViewPosition": "", "PatientOrientation": None}, "held", "view_unknown"),
        ({"BodyPartExamined": None}, "queued", "view_position_frontal"),
    ],
)
def test_the_decision_says_what_is_kept(
    listening: Any, scu: Any, synthetic_xray: Xray, elements: dict[str, Any], state: str, reason: str
) -> None:
    running = listening()
    with scu(running.port) as peer:
        assert peer.store_dataset(synthetic_xray(**elements)) == 0x0000
    (image,) = running.images()
    assert (image["state"], image["reason"]) == (state, reason)
    assert len(running.kept()) == (0 if state == "not_scored" else 1)
    assert running.incoming() == []


@pytest.mark.parametrize(("unknown", "state"), [("hold", "held"), ("score", "queued"), ("reject", "not_scored")])
def test_an_unknown_view_is_treated_as_the_setting_says(
    listening: Any, scu: Any, synthetic_xray: Xray, unknown: str, state: str
) -> None:
    running = listening({"view": {"unknown": unknown}})
    with scu(running.port) as peer:
        assert peer.store_dataset(synthetic_xray(ViewPosition="", PatientOrientation=None)) == 0x0000
    assert [image["state"] for image in running.images()] == [state]


def test_for_processing_is_success_and_not_kept(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = listening()
    xray = synthetic_xray(SOPClassUID=DX_FOR_PROCESSING, Modality="DX", PresentationIntentType="FOR PROCESSING")
    with scu(running.port, {DX_FOR_PROCESSING: [EXPLICIT]}) as peer:
        assert peer.store_dataset(xray) == 0x0000
    assert [(image["state"], image["reason"]) for image in running.images()] == [("not_scored", "for_processing")]
    assert running.kept() == {}


@pytest.mark.parametrize("is_on", [False, True])
def test_secondary_capture_is_taken_only_where_the_setting_says_so(
    listening: Any, scu: Any, synthetic_xray: Xray, is_on: bool
) -> None:
    running = listening(secondary_capture=is_on)
    with scu(running.port, {SECONDARY_CAPTURE: [EXPLICIT]}) as peer:
        rejected = [context.abstract_syntax for context in peer.association.rejected_contexts]
        if is_on:
            assert peer.store_dataset(synthetic_xray(SOPClassUID=SECONDARY_CAPTURE)) == 0x0000
    assert rejected == ([] if is_on else [SECONDARY_CAPTURE])
    assert [image["state"] for image in running.images()] == (["queued"] if is_on else [])


def test_other_storage_classes_are_recorded_and_not_kept(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    private = "1.3.46.670589.11.0.0.12.1"
    running = listening(accept_all_storage=True)
    contexts = {CT: [EXPLICIT], private: [EXPLICIT], SECONDARY_CAPTURE: [EXPLICIT]}
    with scu(running.port, contexts) as peer:
        assert peer.association.rejected_contexts == []
        for seed, sop_class in enumerate(contexts):
            assert peer.store_dataset(synthetic_xray(seed=seed, SOPClassUID=sop_class)) == 0x0000
    assert {(image["state"], image["reason"]) for image in running.images()} == {
        ("not_scored", "sop_class_not_accepted")
    }
    assert len(running.images()) == 3
    assert running.kept() == {}


def _in_syntax(xray: Dataset, syntax: UID) -> bytes:
    """A file of the same X-ray in another syntax; what is in its fragments is the decoders' matter."""
    if syntax in COMPRESSED_SYNTAXES:
        xray.PixelData = encapsulate([xray.PixelData])
    if syntax == ExplicitVRBigEndian:
        xray.PixelData = xray.pixel_array.astype(">u2").tobytes()
        xray = Dataset({element.tag: element for element in xray})  # forgets its encoding
        xray.file_meta = FileMetaDataset()
    xray.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    xray.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda uid: uid.keyword)
def test_every_syntax_is_stored_byte_for_byte(
    listening: Any, scu: Any, synthetic_xray: Xray, dataset_bytes: Any, syntax: UID
) -> None:
    running = listening()
    xray = synthetic_xray()
    content = _in_syntax(xray, syntax)
    with scu(running.port, {CR: [syntax]}) as peer:
        assert peer.store(dataset_bytes(content), instance=xray.SOPInstanceUID) == 0x0000
    (image,) = running.images()
    assert (image["state"], image["transfer_syntax_uid"]) == ("queued", syntax)
    (kept,) = running.kept().values()
    assert dataset_bytes(kept) == dataset_bytes(content)


def test_a_resend_is_one_event_and_one_file(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = listening()
    with scu(running.port) as peer:
        assert [peer.store_dataset(synthetic_xray()) for _ in range(3)] == [0x0000] * 3
    assert running.events() == ["received", "resent", "resent"]
    assert len(running.images()) == len(running.kept()) == 1
    assert running.incoming() == []
    assert running.count("cxr_received_objects_total", outcome="resent") == 2


def test_a_resend_brings_back_a_file_that_was_lost(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = listening()
    with scu(running.port) as peer:
        assert peer.store_dataset(synthetic_xray()) == 0x0000
        ((name, content),) = running.kept().items()
        running.spool.remove(name)
        # Success says that the object is on disk.
        assert peer.store_dataset(synthetic_xray()) == 0x0000
        assert peer.store_dataset(synthetic_xray()) == 0x0000  # and once it is back, nothing is restored
    assert list(running.kept().values()) == [content]
    assert running.events() == ["received", "resent", "resent"]
    assert restored(running) == 1
    assert running.incoming() == []
    (job,) = claim(running)
    assert running.spool.path(job.spool_name).read_bytes() == content
    assert integrity.check(running.database, running.spool).faults == ()


def test_a_job_that_failed_for_want_of_its_file_is_tried_again(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = listening()
    with scu(running.port) as peer:
        peer.store_dataset(synthetic_xray())
        (name,) = running.kept()
        running.spool.path(name).unlink()
        (job,) = claim(running)
        with running.database.begin() as session:
            jobs.fail(
                session,
                job.id,
                worker_id="worker",
                code=MissingObject.code,
                retryable=False,
                max_attempts=3,
                retry_s=30,
                now=datetime.now(UTC),
            )
        assert running.query("SELECT state, error_code FROM job") == [
            {"state": "failed", "error_code": "missing_object"}
        ]
        # An archive that rewrote an element that we don't use helps as well.
        assert peer.store_dataset(synthetic_xray(KVP="80")) == 0x0000
    assert [job.attempt for job in claim(running)] == [1]
    assert integrity.check(running.database, running.spool).faults == ()


def test_a_held_image_gets_its_file_back_whatever_the_setting_says_now(
    listening: Any, make_settings: Any, scu: Any, synthetic_xray: Xray
) -> None:
    settings = make_settings()
    held = synthetic_xray(ViewPosition="", PatientOrientation=None)
    first = listening(settings=settings)
    with scu(first.port) as peer:
        peer.store_dataset(held)
    first.listener.stop()
    for name in first.kept():
        first.spool.path(name).unlink()
    rejecting = settings.model_copy(update={"view": settings.view.model_copy(update={"unknown": UnknownView.REJECT})})
    second = listening(settings=rejecting)
    with scu(second.port) as peer:
        assert peer.store_dataset(held) == 0x0000
    assert [image["state"] for image in second.images()] == ["held"]
    assert list(second.kept()) == [image["spool_name"] for image in second.images()]


def test_eight_resends_at_once_restore_a_lost_file_once(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = listening()
    with scu(running.port) as peer:
        peer.store_dataset(synthetic_xray())
    (name,) = running.kept()
    running.spool.path(name).unlink()
    assert send_at_once(running, scu, synthetic_xray()) == [0x0000] * 8
    assert running.events() == ["received"] + ["resent"] * 8
    assert restored(running) == 1
    assert list(running.kept()) == [image["spool_name"] for image in running.images()]
    assert running.incoming() == []


def restored(running: Any) -> int:
    return len(running.query("SELECT id FROM event WHERE kind = 'pixels_restored'"))


def claim(running: Any) -> list[ClaimedJob]:
    with running.database.begin() as session:
        return jobs.claim(
            session,
            worker_id="worker",
            limit=10,
            now=datetime.now(UTC),
            lease_s=60,
        )


def send_at_once(running: Any, scu: Any, xray: Dataset) -> list[int | None]:
    """Send one object over eight associations; the statuses."""
    statuses: list[int | None] = []
    together = threading.Barrier(8)

    def send() -> None:
        with scu(running.port) as peer:
            together.wait()
            statuses.append(peer.store_dataset(xray))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def test_a_resend_does_not_bring_back_what_was_removed_for_good(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = listening()
    held = synthetic_xray(ViewPosition=None, PatientOrientation=None)
    with scu(running.port) as peer:
        assert peer.store_dataset(held) == 0x0000
        assert len(running.kept()) == 1
        now = datetime.now(UTC)
        assert (
            retention.purge(running.database, running.spool, states=[JobState.HELD], older_than=timedelta(0), now=now)
            == 1
        )
        assert peer.store_dataset(held) == 0x0000
    assert running.kept() == {}
    assert running.events() == ["received", "resent"]


def test_a_changed_patient_is_a_new_job_and_an_element_we_do_not_use_is_not(
    listening: Any, scu: Any, synthetic_xray: Xray
) -> None:
    running = listening()
    with scu(running.port) as peer:
        peer.store_dataset(synthetic_xray())
        peer.store_dataset(synthetic_xray(KVP="80"))
        peer.store_dataset(synthetic_xray(PatientID="SYN-CORRECTED"))
        other_pixels = synthetic_xray(seed=1).PixelData
        peer.store_dataset(synthetic_xray(PatientID="SYN-CORRECTED", PixelData=other_pixels))
    assert running.events() == ["received", "resent", "changed_resend", "changed_resend"]
    assert len(running.images()) == len(running.kept()) == 3


def test_the_same_instance_over_eight_associations_is_one_image(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = listening()
    assert send_at_once(running, scu, synthetic_xray()) == [0x0000] * 8
    assert sorted(running.events()) == ["received"] + ["resent"] * 7
    assert len(running.images()) == len(running.kept()) == 1


def test_a_restart_does_not_forget(listening: Any, make_settings: Any, scu: Any, synthetic_xray: Xray) -> None:
    settings = make_settings()
    first = listening(settings=settings)
    with scu(first.port) as peer:
        peer.store_dataset(synthetic_xray())
    first.listener.stop()
    second = listening(settings=settings)
    with scu(second.port) as peer:
        assert peer.store_dataset(synthetic_xray()) == 0x0000
    assert second.events() == ["received", "resent"]
    assert len(second.kept()) == 1
