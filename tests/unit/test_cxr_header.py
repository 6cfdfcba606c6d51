"""Headers are read from whatever a peer sends: real files, files of pydicom's own test suite, and bytes."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.charset import python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxr import product
from cxr.dicom import elements, open_dataset, read_header
from cxr.dicom.bounded_streams import InflatedStream
from cxr.dicom.header import COPIED_KEYWORDS, identity_digest
from cxr.errors import IdentityMismatch, IntakeError, ObjectTooLarge, UnparsableObject

# pydicom warns about malformed values and lengths; malformed files are what these tests feed it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

Make = Callable[..., Dataset]

UNREADABLE = {
    "bad/notdicom_HelloWorld.pdf": UnparsableObject,
    "bad/notdicom_html_named_dcm.dcm": UnparsableObject,
    "bad/orthanc_2026-05-06-Deeply-Nested-Sequence.dcm": UnparsableObject,
    "bad/pydicom_no_meta.dcm": UnparsableObject,
    "bad/pydicom_DICOMDIR-nooffset": IdentityMismatch,
    "bad/pydicom_UN_sequence.dcm": IdentityMismatch,
    "bad/pydicom_bad_sequence.dcm": IdentityMismatch,
    "bad/pydicom_meta_missing_tsyntax.dcm": IdentityMismatch,
    "bad/pydicom_nested_priv_SQ.dcm": IdentityMismatch,
}


def as_bytes(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and "PixelData" in dataset:
        del dataset.PixelData  # its bytes would have to be swapped, and no header test looks at them
    stream = io.BytesIO()
    dataset.save_as(
        stream,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return stream.getvalue()


def reread(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    return open_dataset(io.BytesIO(as_bytes(dataset, syntax)))


def test_every_shared_file_gives_a_header_or_its_own_intake_error(shared_data: Path) -> None:
    outcomes: dict[str, type[Exception]] = {}
    files = sorted(path for path in (shared_data / "dicom").rglob("*") if path.is_file())
    assert len(files) >= 65
    for path in files:
        try:
            header = read_header(open_dataset(path))
        except IntakeError as error:
            outcomes[path.relative_to(shared_data / "dicom").as_posix()] = type(error)
        else:
            assert header.sop_class_uid
            assert header.sop_instance_uid
            assert len(header.identity_digest) == 64
    assert outcomes == UNREADABLE


def test_header_of_a_real_chest_radiograph(shared_data: Path) -> None:
    header = read_header(open_dataset(shared_data / "dicom" / "chest_frontal" / "nema_RG1_J2KI.dcm"))
    assert header.sop_class_uid == "1.2.840.10008.5.1.4.1.1.1"
    assert (header.modality, header.body_part_examined, header.view_position) == ("CR", "CHEST", "PA")
    assert header.patient_orientation == ("L", "F")
    assert header.image_type == ("DERIVED", "PRIMARY")
    assert (header.rows, header.columns, header.bits_stored) == (1955, 1841, 15)
    assert header.photometric_interpretation == "MONOCHROME1"
    assert header.has_pixel_data
    assert not header.is_animal
    assert not header.is_own_output


def test_a_file_without_preamble_and_meta_is_read(shared_data: Path) -> None:
    header = read_header(open_dataset(shared_data / "dicom" / "chest_frontal" / "barre_CR-MONO1-10-chest"))
    assert (header.body_part_examined, header.view_position, header.rows) == ("CHEST", "PA", 440)


def test_elements_of_a_command_set_before_the_dataset_are_read(synthetic_xray: Make) -> None:
    """They are in Implicit VR Little Endian, whatever the file says of its dataset."""
    whole = bytearray(as_bytes(synthetic_xray()))
    (meta_bytes,) = struct.unpack_from("<L", whole, 140)
    whole[144 + meta_bytes : 144 + meta_bytes] = struct.pack("<HHLH", 0, 0x0110, 2, 7)
    dataset = open_dataset(io.BytesIO(whole))
    assert dataset.MessageID == 7
    assert read_header(dataset).modality == "CR"


@pytest.mark.parametrize("term", sorted(filter(None, python_encoding)))
def test_ascii_is_the_same_in_every_character_set(synthetic_xray: Make, term: str) -> None:
    printable = bytes(range(0x20, 0x7F)).strip()
    dataset = synthetic_xray()
    charset = raw("SpecificCharacterSet", term.encode("ascii"), "CS")
    for element in (charset, raw("SeriesDescription", printable, "LO")):
        dataset[element.tag] = element
    assert elements.text(dataset, "SeriesDescription") == printable.decode(python_encoding[term])


def test_pixels_are_left_out_but_known_to_be_there(synthetic_xray: Make) -> None:
    dataset = reread(synthetic_xray())
    assert "PixelData" not in dataset
    assert read_header(dataset).has_pixel_data
    assert not read_header(reread(synthetic_xray(PixelData=None))).has_pixel_data
    assert not read_header(reread(synthetic_xray(PixelData=b""))).has_pixel_data


def test_pixel_data_of_a_whole_dataset_is_seen(synthetic_xray: Make) -> None:
    assert read_header(synthetic_xray()).has_pixel_data
    assert not read_header(synthetic_xray(PixelData=None)).has_pixel_data


def test_reading_leaves_the_elements_as_received(shared_data: Path) -> None:
    # The report's builder copies identity byte for byte: pydicom's conversion in place would lose the bytes.
    dataset = open_dataset(shared_data / "dicom" / "chest_frontal" / "nema_RG1_J2KI.dcm")
    before = {tag for tag in dataset.keys() if isinstance(dataset.get_item(tag), RawDataElement)}  # noqa: SIM118
    read_header(dataset)
    after = {tag for tag in dataset.keys() if isinstance(dataset.get_item(tag), RawDataElement)}  # noqa: SIM118
    assert BaseTag(0x00100010) in before
    assert after == before


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_the_transfer_syntax_changes_nothing(synthetic_xray: Make, syntax: str) -> None:
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "T-D3000", "SRT", "Chest"
    extra = {"AnatomicRegionSequence": Sequence([region]), "NumberOfFrames": 2, "PixelData": None}
    first = read_header(reread(synthetic_xray(**extra)))
    second = read_header(reread(synthetic_xray(**extra), syntax))
    assert first == second
    assert first.anatomic_region is not None
    assert first.anatomic_region.value == "T-D3000"
    assert (first.rows, first.number_of_frames) == (64, 2)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "not a uid", "1..2", "1.2." + "3" * 64])
def test_without_identifiers_there_is_no_image(synthetic_xray: Make, keyword: str, value: str | None) -> None:
    dataset = synthetic_xray()
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    del dataset[tag]
    if value is not None:
        raw = value.encode()
        dataset[tag] = RawDataElement(tag, "UI", len(raw), raw, 0, False, True)
    with pytest.raises(IdentityMismatch, match=keyword) as caught:
        read_header(dataset)
    assert "not a uid" not in str(caught.value)


def test_leading_zeros_in_a_uid_are_taken_as_they_are(synthetic_xray: Make) -> None:
    dataset = synthetic_xray()
    tag = BaseTag(0x00080018)
    dataset[tag] = RawDataElement(tag, "UI", 8, b"1.02.003", 0, False, True)
    assert read_header(dataset).sop_instance_uid == "1.02.003"


def raw(keyword: str, value: bytes, vr: str) -> RawDataElement:
    return RawDataElement(BaseTag(tag_for_keyword(keyword) or 0), vr, len(value), value, 0, False, True)


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "field"),
    [
        ("Rows", "US", b"\x01", "rows"),
        ("Rows", "US", b"", "rows"),
        ("NumberOfFrames", "IS", b"1A", "number_of_frames"),
        ("NumberOfFrames", "IS", b"", "number_of_frames"),
        ("StudyInstanceUID", "UI", b"1.2.x", "study_instance_uid"),
        ("AccessionNumber", "SH", b"   ", "accession_number"),
        ("ViewPosition", "CS", b"\0\0", "view_position"),
        ("AnatomicRegionSequence", "SQ", b"\xfe\xff\x00\xe0\xff\xff", "anatomic_region"),
        ("AnatomicRegionSequence", "SQ", b"garbage!", "anatomic_region"),
    ],
)
def test_a_malformed_or_empty_element_is_none(
    synthetic_xray: Make, keyword: str, vr: str, value: bytes, field: str
) -> None:
    dataset = synthetic_xray()
    element = raw(keyword, value, vr)
    dataset[element.tag] = element
    assert getattr(read_header(dataset), field) is None


def test_code_strings_are_stripped_and_upper_cased(synthetic_xray: Make) -> None:
    dataset = synthetic_xray()
    for element in (raw("ViewPosition", b" pa ", "CS"), raw("PatientOrientation", b"l \\F", "CS")):
        dataset[element.tag] = element
    header = read_header(dataset)
    assert header.view_position == "PA"
    assert header.patient_orientation == ("L", "F")


@pytest.mark.parametrize(
    ("charset", "raw_text", "text"),
    [
        (b"ISO_IR 100", b"R\xf6ntgen", "Röntgen"),
        (b"ISO_IR 192", "Röntgen".encode(), "Röntgen"),
        (b"\\ISO 2022 IR 87", b"\x1b$B6;It\x1b(B AP", "胸部 AP"),
        (b"\\ISO 2022 IR 149", b"\x1b$)C\xb0\xa1 PA", "가 PA"),
        (b"no such term", b"Thorax", "Thorax"),
        (b"ISO_IR 192", b"R\xf6ntgen", "R\ufffdntgen"),
    ],
)
def test_text_is_decoded_as_declared(synthetic_xray: Make, charset: bytes, raw_text: bytes, text: str) -> None:
    dataset = synthetic_xray()
    for element in (raw("SpecificCharacterSet", charset, "CS"), raw("SeriesDescription", raw_text, "LO")):
        dataset[element.tag] = element
    assert read_header(dataset).series_description == text


def species(value: str, scheme: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "as coded"
    return Sequence([item])


@pytest.mark.parametrize(
    ("given_elements", "is_animal"),
    [
        ({}, False),
        ({"PatientSpeciesDescription": ""}, False),
        ({"PatientSpeciesDescription": "Homo sapiens"}, False),
        ({"PatientSpeciesCodeSequence": species("337915000", "SCT")}, False),
        ({"PatientSpeciesCodeSequence": Sequence([Dataset()])}, False),
        ({"AnatomicalOrientationType": "BIPED"}, False),
        ({"PatientSpeciesDescription": "Canine"}, True),
        ({"PatientSpeciesCodeSequence": species("448771007", "SCT")}, True),
        ({"PatientBreedDescription": "Mixed"}, True),
        ({"PatientBreedCodeSequence": species("132391007", "SCT")}, True),
        ({"AnatomicalOrientationType": "QUADRUPED"}, True),
    ],
)
def test_animals_are_told_from_people(synthetic_xray: Make, given_elements: dict[str, Any], is_animal: bool) -> None:
    assert read_header(reread(synthetic_xray(**given_elements))).is_animal is is_animal


def test_our_own_objects_are_known_by_their_mark(synthetic_xray: Make) -> None:
    ours = Dataset()
    ours.Manufacturer = product.MANUFACTURER
    theirs = Dataset()
    theirs.Manufacturer = "Somebody"
    assert read_header(reread(synthetic_xray(Manufacturer=product.MANUFACTURER))).is_own_output
    assert read_header(reread(synthetic_xray(ContributingEquipmentSequence=Sequence([theirs, ours])))).is_own_output
    assert not read_header(reread(synthetic_xray(ContributingEquipmentSequence=Sequence([theirs])))).is_own_output
    assert not read_header(reread(synthetic_xray(Manufacturer=""))).is_own_output


# The digest of what a report copies

CHANGED = {
    "SpecificCharacterSet": "ISO_IR 192",
    "TimezoneOffsetFromUTC": "+0100",
    "PatientBirthDate": "19700102",
    "PatientSex": "F",
    "PatientIdentityRemoved": "YES",
    "StudyDate": "20200402",
    "StudyTime": "101501",
    "PatientAge": "051Y",
    "PatientSize": "1.71",
    "PatientWeight": "71",
    "Rows": 65,
    "Columns": 49,
    "PatientOrientation": ["R", "F"],
}


@pytest.mark.parametrize("keyword", COPIED_KEYWORDS)
def test_each_copied_attribute_changes_the_digest(synthetic_xray: Make, keyword: str) -> None:
    changed = CHANGED.get(keyword, "1.2.3" if keyword.endswith("UID") else "OTHER")
    before = identity_digest(reread(synthetic_xray()))
    after = identity_digest(reread(synthetic_xray(**{keyword: changed})))
    assert before != after


@pytest.mark.parametrize("keyword", ["SeriesDescription", "InstanceNumber", "ImageComments", "SOPInstanceUID"])
def test_no_other_attribute_changes_it(synthetic_xray: Make, keyword: str) -> None:
    before = identity_digest(reread(synthetic_xray()))
    assert identity_digest(reread(synthetic_xray(**{keyword: "7"}))) == before


def test_absent_and_empty_differ(synthetic_xray: Make) -> None:
    digests = {identity_digest(reread(synthetic_xray(AccessionNumber=value))) for value in (None, "", "ACC0")}
    assert len(digests) == 3


def test_padding_does_not_count(synthetic_xray: Make) -> None:
    plain, padded = synthetic_xray(), synthetic_xray()
    element = raw("PatientID", b"SYN0  ", "LO")
    padded[element.tag] = element
    assert identity_digest(plain) == identity_digest(padded)


def test_no_two_lists_of_values_run_into_the_same_bytes(synthetic_xray: Make) -> None:
    digests = set()
    for name, patient_id in [(b"", b"PatientID\x01B"), (b"PatientID\x01", b"B"), (b"A", b"BC"), (b"AB", b"C")]:
        dataset = synthetic_xray()
        for element in (raw("PatientName", name, "PN"), raw("PatientID", patient_id, "LO")):
            dataset[element.tag] = element
        digests.add(identity_digest(dataset))
    assert len(digests) == 4


def test_a_converted_dataset_gives_the_same_digest(shared_data: Path) -> None:
    # Of chrKoreanMulti it would not: pydicom drops the escape sequence at the end of its name.
    path = shared_data / "dicom" / "radiograph_other" / "pydicom_chrJapMulti.dcm"
    converted = dcmread(path)
    list(converted.iterall())  # pydicom converts every element that is looked at
    assert not isinstance(converted.get_item(0x00100010), RawDataElement)
    assert identity_digest(converted) == identity_digest(open_dataset(path))


def test_everything_that_a_report_copies_is_in_the_digest() -> None:
    pytest.importorskip("highdicom")
    from inference.report.copying import COPIED

    assert set(COPIED) <= set(COPIED_KEYWORDS)


# Hostile input


def nested(depth: int) -> bytes:
    """An object whose one sequence holds itself, so many deep; undefined lengths."""
    open_item = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return b"\0" * 128 + b"DICM" + meta(ExplicitVRLittleEndian) + open_item * depth


def meta(syntax: str) -> bytes:
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    return struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value


@pytest.mark.parametrize("depth", [400, 5000])
def test_deep_nesting_is_unparsable_not_a_crash(depth: int) -> None:
    with pytest.raises((UnparsableObject, IdentityMismatch)):
        read_header(open_dataset(io.BytesIO(nested(depth))))


def deflated(dataset: bytes) -> io.BytesIO:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    content = deflate.compress(dataset) + deflate.flush()
    return io.BytesIO(b"\0" * 128 + b"DICM" + meta(DeflatedExplicitVRLittleEndian) + content)


def private(size: int) -> bytes:
    return struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, size) + b"\0" * size


def test_a_deflated_dataset_may_not_swell_beyond_the_bound() -> None:
    bomb = deflated(private(4 * 1024 * 1024))
    assert len(bomb.getvalue()) < 10_000
    with pytest.raises(ObjectTooLarge, match="1048576 bytes"):
        open_dataset(bomb, max_inflated_bytes=1024 * 1024)
    bomb.seek(0)
    open_dataset(bomb, max_inflated_bytes=8 * 1024 * 1024)


def test_a_deflated_element_that_is_skipped_takes_no_memory() -> None:
    bomb = deflated(private(100 * 1024 * 1024) + struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 4) + b"SYN1")
    tracemalloc.start()
    try:
        dataset = open_dataset(bomb, max_inflated_bytes=256 * 1024 * 1024)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert elements.text(dataset, "PatientID") == "SYN1"
    assert peak < 8 * 1024 * 1024


def test_the_last_mebibyte_of_a_deflated_dataset_can_be_read_again() -> None:
    mib = 1024 * 1024
    content = bytes(range(256)) * (4 * mib // 256)
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stream = InflatedStream(io.BytesIO(compressor.compress(content) + compressor.flush()), limit=8 * mib)
    assert b"".join(stream.read(mib) for _ in range(3)) + stream.read(1) == content[: 3 * mib + 1]
    assert stream.seek(-mib, os.SEEK_CUR) == 2 * mib + 1
    assert stream.read(mib) == content[2 * mib + 1 : 3 * mib + 1]


def test_deflated_pixels_are_not_inflated(synthetic_xray: Make) -> None:
    content = as_bytes(synthetic_xray(rows=2048, columns=2048), DeflatedExplicitVRLittleEndian)
    dataset = open_dataset(io.BytesIO(content), max_inflated_bytes=256 * 1024)
    assert read_header(dataset).rows == 2048


def test_a_damaged_deflated_dataset_is_unparsable(synthetic_xray: Make) -> None:
    content = as_bytes(synthetic_xray(), DeflatedExplicitVRLittleEndian)
    start = content.index(DeflatedExplicitVRLittleEndian.encode()) + 22
    with pytest.raises((UnparsableObject, IdentityMismatch)):
        read_header(open_dataset(io.BytesIO(content[:start] + b"\xff" * 200)))


def test_a_dataset_of_very_many_elements_is_unparsable() -> None:
    many = b"".join(struct.pack("<HH2sH", 0x0009 + 2 * (i >> 16), i & 0xFFFF, b"LO", 0) for i in range(140_000))
    with pytest.raises(UnparsableObject):
        open_dataset(io.BytesIO(b"\0" * 128 + b"DICM" + meta(ExplicitVRLittleEndian) + many))


ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
UNDEFINED = 0xFFFFFFFF
ITEM_END, SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize("deflate", [False, True])
def test_a_sequence_of_very_many_items_is_unparsable(deflate: bool) -> None:
    """8 bytes of the file are 700 of memory: 256 MiB of them were 22 GiB."""
    many = struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, UNDEFINED) + ITEM * 140_000 + SEQUENCE_END
    plain = io.BytesIO(b"\0" * 128 + b"DICM" + meta(ExplicitVRLittleEndian) + many)
    with pytest.raises(UnparsableObject):
        open_dataset(deflated(many) if deflate else plain)


def test_nested_elements_count_too() -> None:
    inner = b"".join(struct.pack("<HH2sH", 0x0009 + 2 * (i >> 16), i & 0xFFFF, b"LO", 0) for i in range(140_000))
    start = struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, UNDEFINED) + ITEM[:4] + b"\xff" * 4
    many = start + inner + ITEM_END + SEQUENCE_END
    with pytest.raises(UnparsableObject):
        open_dataset(io.BytesIO(b"\0" * 128 + b"DICM" + meta(ExplicitVRLittleEndian) + many))


def test_a_sequence_is_read_up_to_a_number_of_items_and_elements(synthetic_xray: Make) -> None:
    for count in (2, 10_000):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399348003", "SCT", "antero-posterior"
        dataset = synthetic_xray(PixelData=None, ViewCodeSequence=[code] + [Dataset() for _ in range(count)])
        received = open_dataset(io.BytesIO(as_bytes(dataset)))
        assert len(read_header(received).view_codes) == 1
        assert len(elements.items(received, "ViewCodeSequence")) == min(count + 1, 1024)
    crowded = Dataset()
    for element in range(0x1001, 0x1001 + 9000):
        crowded.add_new((0x0019, element), "LO", "")
    dataset = synthetic_xray(PixelData=None, ViewCodeSequence=[code, crowded])
    assert elements.items(open_dataset(io.BytesIO(as_bytes(dataset))), "ViewCodeSequence") == []


def test_what_stands_before_the_pixels_may_not_be_longer_than_a_header(synthetic_xray: Make) -> None:
    content = as_bytes(synthetic_xray(PixelData=None)) + private(1_000_000) * 40
    with pytest.raises(ObjectTooLarge, match="32 MiB"):
        open_dataset(io.BytesIO(content))


def test_an_element_that_is_too_long_is_left_out_and_never_fetched(synthetic_xray: Make) -> None:
    long = struct.pack("<HH2sHL", 0x0010, 0x0020, b"UN", 0, 3 << 20) + b"A" * (3 << 20)
    dataset = open_dataset(io.BytesIO(as_bytes(synthetic_xray(PixelData=None, PatientID=None)) + long))
    assert read_header(dataset).patient_id is None
    assert "PatientID" not in dataset


def test_a_declared_length_beyond_the_end_reads_what_is_there(synthetic_xray: Make) -> None:
    content = as_bytes(synthetic_xray(PixelData=None))
    with_lie = content + struct.pack("<HH2sHL", 0x0043, 0x1001, b"OB", 0, 0x7FFFFFFE) + b"end"
    assert read_header(open_dataset(io.BytesIO(with_lie))).view_position == "PA"


def test_a_stream_stays_open_and_a_missing_file_is_an_os_error(synthetic_xray: Make, tmp_path: Path) -> None:
    stream = io.BytesIO(as_bytes(synthetic_xray()))
    open_dataset(stream)
    assert not stream.closed
    with pytest.raises(FileNotFoundError):
        open_dataset(tmp_path / "absent.dcm")


def test_messages_carry_nothing_of_the_object(synthetic_xray: Make) -> None:
    dataset = synthetic_xray(PatientName="CANARY^NAME")
    dataset.SOPInstanceUID = None
    with pytest.raises(IdentityMismatch) as caught:
        read_header(dataset)
    assert "CANARY" not in str(caught.value)
    with pytest.raises(UnparsableObject) as unparsable:
        open_dataset(io.BytesIO(b"CANARY" * 100))
    assert "CANARY" not in str(unparsable.value)


@given(
    st.binary(max_size=2000),
    st.sampled_from(["", "1.2.840.10008.1.2", ExplicitVRLittleEndian, "1.2.840.10008.1.2.1.99"]),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_header_or_an_intake_error(content: bytes, syntax: str) -> None:
    prefix = b"\0" * 128 + b"DICM" + meta(syntax) if syntax else b""
    try:
        header = read_header(open_dataset(io.BytesIO(prefix + content), max_inflated_bytes=100_000))
    except IntakeError:
        return
    assert header.sop_instance_uid


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_image_gives_a_header_or_an_intake_error(synthetic_xray: Make, data: st.DataObject) -> None:
    content = bytearray(as_bytes(synthetic_xray(rows=2, columns=2)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        read_header(open_dataset(io.BytesIO(bytes(content[:cut]))))
    except IntakeError:
        return


KEYWORDS = (*COPIED_KEYWORDS, "ViewCodeSequence", "AnatomicRegionSequence", "NumberOfFrames", "SeriesDescription")


@given(
    st.dictionaries(
        st.sampled_from(KEYWORDS),
        st.tuples(st.sampled_from(["LO", "US", "SQ", "UN", "PN", "IS"]), st.binary(max_size=40)),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_element_values_give_a_header_or_an_intake_error(values: dict[str, tuple[str, bytes]]) -> None:
    dataset = Dataset()
    for keyword, (vr, value) in values.items():
        element = raw(keyword, value, vr)
        dataset[element.tag] = element
    try:
        header = read_header(dataset)
    except IntakeError:
        return
    assert header.identity_digest != blake3().hexdigest()


def test_a_program_s_values_are_read_like_received_ones() -> None:
    dataset = Dataset()
    dataset.add(DataElement(0x00100010, "PN", "Synthetic^Xray"))
    dataset.PatientOrientation = ["L", "F"]
    dataset.Rows = 5
    assert elements.raw_bytes(dataset, "PatientName") == b"Synthetic^Xray"
    assert elements.raw_bytes(dataset, "PatientOrientation") == b"L\\F"
    assert elements.integer(dataset, "Rows") == 5
    assert elements.raw_bytes(dataset, "PatientID") is None
