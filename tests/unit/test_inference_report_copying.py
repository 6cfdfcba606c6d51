"""Identity goes into our objects byte for byte, or not at all, and never into a message."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from cxr.domain import ScoredImage
from cxr.errors import ReportError
from cxr.package import PackageManifest
from inference.report.build import SourceDigests, build_report
from inference.report.check import warm_up
from inference.report.copying import COPIED, VERBATIM, copy_identity
from inference.report.part10 import encode

Xray = Callable[..., Dataset]


@pytest.fixture
def received(synthetic_xray: Xray) -> Callable[..., Dataset]:
    """A header as read from a file, with these bytes in these elements (None: without the element)."""

    def make(**values: bytes | None) -> Dataset:
        dataset = synthetic_xray()
        del dataset.PixelData
        header = dcmread(BytesIO(encode(dataset)))
        for keyword, value in values.items():
            tag = Tag(tag_for_keyword(keyword))
            if value is None:
                header.pop(tag, None)
            else:
                header[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
        return header

    return make


LONG_LENGTH = {b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"}


def written(source: Dataset) -> dict[str, bytes]:
    """The copied identity as its bytes stand in the file, read without pydicom."""
    target = Dataset()
    target.SOPClassUID, target.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "2.25.1"
    copy_identity(source, target)
    content, place, values = encode(target), 132, {}
    while place < len(content):
        group, element, vr, length = struct.unpack_from("<HH2sH", content, place)
        place += 8
        if vr in LONG_LENGTH:
            (length,) = struct.unpack_from("<L", content, place)
            place += 4
        values[keyword_for_tag((group, element))] = content[place : place + length]
        place += length
    return values


IDENTITIES = {
    "iso_ir_100": (b"ISO_IR 100", "Müller^Jörg".encode("latin-1")),
    "iso_ir_144": (b"ISO_IR 144", "\u0421\u043d\u0438\u043c\u043e\u043a".encode("iso8859-5")),
    "iso_ir_192": (b"ISO_IR 192", "Xiongbu^Zhaopian=胸部^照片".encode()),
    "iso_ir_13": (b"ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3 "),
    "japanese": (
        b"\\ISO 2022 IR 87",
        b"Shashin^Kyoubu=" + "写真".encode("iso2022_jp") + b"^" + "胸部".encode("iso2022_jp"),
    ),
    "korean, escaped at the end": (
        b"\\ISO 2022 IR 149",
        b"Sajin^Hyungbu=" + b"^".join(b"\x1b$)C" + word.encode("euc_kr") for word in ("사진", "흉부")) + b"\x1b(B",
    ),
    "undeclared": (None, b"M\xfcller^J\xf6rg "),
    "undeclared, shift-jis": (None, "写真^胸部".encode("shift_jis")),
    "invalid term": (b"UTF-8 ", "Müller^Jörg".encode()),
    "unknown term": (b"KLINGON ", b"M\xfcller^J\xf6rg "),
    "lone extension": (b"ISO 2022 IR 100 ", b"M\xfcller^J\xf6rg "),
    "undecodable": (b"ISO_IR 192", b"M\xfcller^J\xf6rg "),
    "too long": (b"ISO_IR 100", b"L" * 200),
    "backslash": (b"ISO_IR 100", b"Two\\Values"),
    "spaces": (b"ISO_IR 100", b"  lead^trail    "),
}


@pytest.mark.parametrize("case", IDENTITIES)
@pytest.mark.parametrize("keyword", VERBATIM)
def test_identity_keeps_its_bytes_and_its_character_set(
    received: Callable[..., Dataset], case: str, keyword: str
) -> None:
    charset, value = IDENTITIES[case]
    value += b" " * (len(value) % 2)
    copied = written(received(**{"SpecificCharacterSet": charset, keyword: value}))
    assert copied[keyword] == value
    assert copied.get("SpecificCharacterSet", b"").strip() == (charset or b"").strip()
    assert ("SpecificCharacterSet" in copied) == (charset is not None)


def test_an_odd_length_is_padded_as_the_standard_says(received: Callable[..., Dataset]) -> None:
    copied = written(received(PatientID=b"ABC", StudyInstanceUID=b"1.2.3"))
    assert copied.get("PatientID") == b"ABC "
    assert copied.get("StudyInstanceUID") == b"1.2.3\0"


@pytest.mark.parametrize("keyword", [*VERBATIM, "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"])
def test_an_absent_attribute_of_type_2_is_empty(received: Callable[..., Dataset], keyword: str) -> None:
    copied = written(received(**{keyword: None}))
    assert copied.get(keyword) == b""


@pytest.mark.parametrize(
    ("keyword", "value", "is_kept"),
    [
        ("PatientBirthDate", b"19700101", True),
        ("PatientBirthDate", b"1970.01.01", False),  # ACR-NEMA
        ("PatientBirthDate", b"1970011 ", False),
        ("PatientBirthDate", b"1950", False),
        ("PatientBirthDate", b"19700231", False),
        ("PatientBirthDate", b"UNKNOWN ", False),
        ("PatientBirthDate", b"01/02/1970", False),
        ("StudyDate", b"2020.04.01", False),
        ("StudyDate", b"20200401-20200402", False),
        ("StudyTime", b"101500", True),
        ("StudyTime", b"101500.123456 ", True),
        ("StudyTime", b"10", True),
        ("StudyTime", b"10:15:00", False),
        ("StudyTime", b"25", False),
        ("StudyTime", b"noon", False),
        ("PatientSex", b"F ", True),
        ("PatientSex", b"O ", True),
        ("PatientSex", b"W ", False),
        ("PatientSex", b"U ", False),
        ("PatientSex", b"m ", False),
    ],
)
def test_a_value_that_is_none_is_left_empty(
    received: Callable[..., Dataset], keyword: str, value: bytes, is_kept: bool
) -> None:
    copied = written(received(**{keyword: value})).get(keyword)
    assert copied is not None
    assert copied.strip() == (value.strip() if is_kept else b"")


@pytest.mark.parametrize(
    ("keyword", "value", "is_kept"),
    [
        ("PatientAge", b"050Y", True),
        ("PatientAge", b"81", False),
        ("PatientAge", b"", True),
        ("PatientWeight", b"80.5", True),
        ("PatientWeight", b"80 kg ", False),
        ("StudyDescription", b"Thorax", True),
        ("StudyDescription", b"T" * 66, False),
        ("IssuerOfPatientID", b"HOSPITAL", True),
        ("TimezoneOffsetFromUTC", b"+0100 ", True),
        ("TimezoneOffsetFromUTC", b"CET ", False),
        ("OtherPatientIDs", b"4711", False),
        ("PatientComments", b"says hello", False),
    ],
)
def test_what_is_optional_is_copied_where_it_is_valid(
    received: Callable[..., Dataset], keyword: str, value: bytes, is_kept: bool
) -> None:
    copied = written(received(**{keyword: value})).get(keyword)
    assert copied == (value if is_kept else None)


def test_the_length_of_a_text_is_counted_in_characters(received: Callable[..., Dataset]) -> None:
    description = ("胸部単純撮影" * 5).encode()  # 30 characters, 90 bytes
    copied = written(received(SpecificCharacterSet=b"ISO_IR 192", StudyDescription=description))
    assert copied.get("StudyDescription") == description


@pytest.mark.parametrize(
    ("removed", "method", "expected"),
    [
        (b"YES ", b"Basic profile ", (b"YES ", b"Basic profile ")),
        (b"YES ", None, (None, None)),
        (b"YES ", b"", (None, None)),
        (b"NO", None, (b"NO", None)),
        (b"MAYBE ", b"Basic profile ", (None, None)),
    ],
)
def test_that_identity_was_removed_is_said_together_with_how(
    received: Callable[..., Dataset],
    removed: bytes,
    method: bytes | None,
    expected: tuple[bytes | None, bytes | None],
) -> None:
    values = {"PatientIdentityRemoved": removed} | ({} if method is None else {"DeidentificationMethod": method})
    copied = written(received(**values))
    assert (copied.get("PatientIdentityRemoved"), copied.get("DeidentificationMethod")) == expected


def test_a_trial_is_copied_whole_or_not_at_all(received: Callable[..., Dataset]) -> None:
    whole = {"ClinicalTrialSponsorName": b"Sponsor ", "ClinicalTrialProtocolID": b"P1", "ClinicalTrialSubjectID": b"S7"}
    copied = written(received(**whole))
    assert {keyword: copied.get(keyword) for keyword in whole} == whole
    assert copied.get("ClinicalTrialSiteID") == b""  # type 2
    assert "ClinicalTrialTimePointID" not in copied
    for missing in whole:
        copied = written(received(**{keyword: value for keyword, value in whole.items() if keyword != missing}))
        assert [keyword for keyword in copied if keyword.startswith("ClinicalTrial")] == []


def test_a_source_without_explicit_vr_gives_the_same(synthetic_xray: Xray) -> None:
    dataset = synthetic_xray(PatientName="Müller^Jörg")
    del dataset.PixelData
    del dataset.file_meta
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
    buffer.seek(0)
    from_implicit = dcmread(buffer, force=True)
    assert isinstance(from_implicit.get_item(tag_for_keyword("PatientName")), RawDataElement)
    assert written(from_implicit)["PatientName"] == "Müller^Jörg ".encode("latin-1")


def test_a_wrong_vr_in_the_source_does_not_come_along(received: Callable[..., Dataset]) -> None:
    header = received()
    tag = Tag(tag_for_keyword("PatientID"))
    header[tag] = RawDataElement(tag, "UN", 4, b"ID-1", 0, False, True)
    target = Dataset()
    copy_identity(header, target)
    assert target.get_item(tag).VR == "LO"
    assert written(header)["PatientID"] == b"ID-1"


def test_the_source_stays_as_it_was_read(received: Callable[..., Dataset]) -> None:
    header = received(PatientAge=b"81", PatientSex=b"W ")
    written(header)
    assert all(isinstance(header.get_item(tag_for_keyword(keyword)), RawDataElement) for keyword in VERBATIM)


# Every text element of a received header is marked; the marks must stay out of all that is said.
MARK = b"ZQXMARK"
TEXTS = ("LO", "SH", "PN", "ST", "LT", "UT")
NASTY = {
    "SpecificCharacterSet": b"ISO_IR 192",
    "PatientName": MARK + b"\xff\xfe^" + b"N" * 70,
    "PatientID": MARK + b"\xe9" * 70,
    "AccessionNumber": MARK + b"A" * 30,
    "PatientBirthDate": MARK + b" ",
    "PatientSex": MARK + b" ",
    "PatientAge": MARK + b" ",
    "PatientSize": MARK + b" ",
    "PatientWeight": MARK + b" ",
    "StudyDate": MARK + b" ",
    "StudyTime": MARK + b" ",
    "PatientOrientation": MARK + b" ",
    "Modality": MARK + b" ",
    "TimezoneOffsetFromUTC": MARK + b" ",
}


def marked(received: Callable[..., Dataset], **values: bytes | None) -> Dataset:
    texts = [keyword for keyword in (*COPIED, "PatientComments", "ProtocolName") if dictionary_VR(keyword) in TEXTS]
    return received(**{keyword: MARK + b"\xfc" + keyword.encode() * 8 for keyword in texts} | NASTY | values)


def test_nothing_of_a_patient_gets_into_a_warning_or_a_log(
    received: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest = model_manifest()
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        report = build_report(
            marked(received),
            scored_by(manifest),
            manifest,
            digests=SourceDigests(pixel_digest="p", identity_digest="i"),
            created=datetime(2024, 5, 1, tzinfo=UTC),
        )
    assert report.content.count(MARK) >= len(VERBATIM)  # the marks were there to be said
    assert [str(each.message) for each in said] == []
    assert "ZQXMARK" not in caplog.text
    assert "ZQXMARK" not in repr(report)


def test_the_acquisition_device_keeps_its_bytes_too(
    received: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
) -> None:
    manifest = model_manifest()
    maker = b"\x1b$)C" + "흉부".encode("euc_kr") + b"\x1b(B "
    source = received(SpecificCharacterSet=b"\\ISO 2022 IR 149 ", Manufacturer=maker, StationName=b"S" * 20)
    content = build_report(
        source,
        scored_by(manifest),
        manifest,
        digests=SourceDigests(pixel_digest="p", identity_digest="i"),
        created=datetime(2024, 5, 1, tzinfo=UTC),
    ).content
    assert struct.pack("<HH2sH", 0x0008, 0x0070, b"LO", len(maker)) + maker in content
    assert b"S" * 17 not in content  # longer than SH may be: not identity, so left out


def test_invalid_uids_are_taken_as_they_are_without_a_word(
    received: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
) -> None:
    manifest = model_manifest()
    uids = {f"{level}InstanceUID": b"999.010.0%d" % number for number, level in enumerate(("Study", "Series", "SOP"))}
    content = build_report(  # a warning would be an error here
        received(**uids),
        scored_by(manifest),
        manifest,
        digests=SourceDigests(pixel_digest="p", identity_digest="i"),
        created=datetime(2024, 5, 1, tzinfo=UTC),
    ).content
    assert [uid for uid in uids.values() if uid not in content] == []


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_nothing_of_a_patient_gets_into_an_error(
    received: Callable[..., Dataset],
    model_manifest: Callable[..., PackageManifest],
    scored_by: Callable[..., ScoredImage],
    keyword: str,
) -> None:
    manifest = model_manifest()
    with pytest.raises(ReportError) as raised:
        build_report(
            marked(received, **{keyword: MARK + b" "}),
            scored_by(manifest),
            manifest,
            digests=SourceDigests(pixel_digest="p", identity_digest="i"),
            created=datetime(2024, 5, 1, tzinfo=UTC),
        )
    assert keyword in str(raised.value)
    assert "ZQXMARK" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_warming_up_loads_highdicoms_tables() -> None:
    from highdicom import _standard_utils

    warm_up()
    assert _standard_utils.get_module_attribute_map.cache_info().currsize == 1
