"""The whole flow with a marked value in every text element: the mark is in no log line, no exception, no file name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

MARK = "PHICANARY"
TEXT_VRS = {"LO": 64, "SH": 16, "PN": 64, "ST": 64, "LT": 64, "UT": 64}
# fmt: off
IDENTIFYING = (
    "PatientName", "PatientID", "OtherPatientNames", "OtherPatientIDs", "PatientBirthName", "PatientComments",
    "PatientAddress", "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ProtocolName",
    "InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
    "PhysiciansOfRecord", "RequestingPhysician", "StationName", "ImageComments", "AdditionalPatientHistory",
    "AdmittingDiagnosesDescription", "EthnicGroup", "Occupation", "RequestedProcedureDescription",
    "RequestedProcedureID", "DeviceSerialNumber", "Manufacturer",
)
# fmt: on


def mark(dataset: Dataset) -> Dataset:
    """Put the mark into every identifying element, in the form that its VR takes or breaks."""
    for number, keyword in enumerate(IDENTIFYING):
        length = TEXT_VRS[dictionary_VR(keyword)]
        setattr(dataset, keyword, f"{MARK}{number}"[:length])
    return dataset


def broken(dataset: Dataset) -> Dataset:
    """Values that third-party libraries like to quote in warnings and errors."""
    dataset.PatientName = f"{MARK} one component, no caret"
    with pytest.warns(UserWarning):
        dataset.PatientBirthDate = MARK
        dataset.PatientSex = f"{MARK} sex"
        dataset.PatientAge = MARK
        dataset.StudyDate = MARK
        dataset.SpecificCharacterSet = MARK
    return dataset


@pytest.mark.filterwarnings("ignore")  # pydicom quotes the values that this test plants
def test_no_marked_value_leaves_the_data(
    service: Callable[..., Any],
    orthanc: Any,
    synthetic_xray: Callable[..., Dataset],
) -> None:
    installation = service(
        f'[log]\nlevel = "debug"\n[report]\ndeliver_untrained = true\nsaliency = true\n'
        f'[[destinations]]\nname = "pacs"\nkind = "dicom"\naddress = "{orthanc.address}"\nverify_after_s = 0.1\n'
    )
    installation.start("serve")
    sound = mark(synthetic_xray(seed=1))
    odd = mark(synthetic_xray(seed=2))
    damaged = mark(synthetic_xray(seed=3))
    damaged.PixelData = b"\0\0"
    lateral = mark(synthetic_xray(seed=4, ViewPosition="LL"))
    assert installation.send(sound, broken(odd), damaged, lateral) == [0, 0, 0, 0]
    installation.wait_until_finished(4, 180)
    installation.wait_until_delivered(4)
    installation.stop()

    spoken = installation.log.read_text()
    assert '"reported"' in spoken, "the service logged nothing: the test would prove nothing"
    assert MARK not in spoken
    assert not [path for path in installation.folder.rglob("*") if MARK in path.name]
    for verb in (["jobs", "list"], ["jobs", "list", "--state", "failed"], ["db", "check"], ["audit", "verify"]):
        assert MARK not in installation.run(*verb)
