"""Documented = implemented: the conformance statement against the code's own sets, in both directions.

Read from the page as a reader does, not by what writes its tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pynetdicom import build_context

from config.settings import ListenerSettings
from cxr import product
from cxr.dicom import read_header
from cxr.dicom.header import COPIED_KEYWORDS
from cxr.dicom.transfer_syntaxes import DECODABLE_SYNTAXES
from cxr.domain import Code
from cxr.labels import FINDINGS
from cxr.view import REASONS
from db.images import commitments
from inference.delivery import statuses as delivery_statuses
from inference.delivery.commitment_scu import COMMITMENT_SOP_CLASS
from inference.delivery.dicom_client import STORED_SOP_CLASSES, TRANSFER_SYNTAXES
from inference.delivery.dicom_verifier import FIND_SOP_CLASS
from inference.report import codes, evidence_map
from inference.report.build import SourceDigests, build_report
from inference.report.copying import COPIED
from inference.report.part10 import encode
from inference.report.source import REFERENCED
from listener import commitment_scp, statuses
from listener.admission import Rejection
from listener.contexts import Contexts

CREATED = datetime(2024, 5, 1, tzinfo=UTC)
CT = "1.2.840.10008.5.1.4.1.1.2"
UID = re.compile(r"`((?:\d+\.)+\d+)`")
TAG = re.compile(r"\(([0-9A-F]{4}),([0-9A-F]{4})\)")

TRIAL_AND_MORE = {
    "TimezoneOffsetFromUTC": "+0000",
    "IssuerOfPatientID": "HOSPITAL",
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "by hand",
    "StudyDescription": "CHEST",
    "PatientAge": "050Y",
    "PatientSize": "1.70",
    "PatientWeight": "70",
    "ClinicalTrialSponsorName": "SPONSOR",
    "ClinicalTrialProtocolID": "P1",
    "ClinicalTrialProtocolName": "PROTOCOL",
    "ClinicalTrialSiteID": "S1",
    "ClinicalTrialSiteName": "SITE",
    "ClinicalTrialSubjectID": "SUB1",
    "ClinicalTrialSubjectReadingID": "READ1",
    "ClinicalTrialTimePointID": "T1",
    "ClinicalTrialTimePointDescription": "baseline",
}
"""Every attribute that is copied where an image has it, beside those of the synthetic one."""


@pytest.fixture
def statement(page: Callable[[str], Any]) -> Any:
    return page("conformance.md")


def tags(rows: list[list[str]]) -> set[int]:
    return {int(found[1] + found[2], 16) for row in rows if (found := TAG.search("|".join(row)))}


def test_sop_classes_received(statement: Any) -> None:
    rows = statement.tables["1.1 SOP classes received (SCP)"]
    asked_for = {uid for row in rows if row[2] == "`listener.commitment.enabled`" for uid in UID.findall(row[1])}
    always = {uid for row in rows if row[2] == "always" for uid in UID.findall(row[1])}
    optional = {uid for row in rows if row[2] == "`listener.secondary_capture`" for uid in UID.findall(row[1])}

    def accepted(**settings: Any) -> set[str]:
        settings = {"commitment": {"enabled": False}} | settings
        return {str(each.abstract_syntax) for each in Contexts(ListenerSettings(**settings)).supported_for([])}

    assert always == accepted()
    assert optional == accepted(secondary_capture=True) - accepted()
    assert asked_for == accepted(commitment={}) - accepted() == {COMMITMENT_SOP_CLASS}
    assert [row[0] for row in rows if "accept_all_storage" in row[2]] == [
        "every other storage class, private ones included"
    ]
    other = Contexts(ListenerSettings(accept_all_storage=True)).supported_for([build_context(CT)])
    assert CT in {str(each.abstract_syntax) for each in other}


def test_transfer_syntaxes_received(statement: Any) -> None:
    storage = [row for row in statement.tables["1.3 Transfer syntaxes received"] if len(row) == 3]
    verification = [row for row in statement.tables["1.3 Transfer syntaxes received"] if len(row) == 2]
    supported = Contexts(ListenerSettings(secondary_capture=True)).supported_for([])
    asking = [context for context in supported if context.abstract_syntax == COMMITMENT_SOP_CLASS]
    assert [context.transfer_syntax for context in asking] == [list(TRANSFER_SYNTAXES)]
    for context in (context for context in supported if context not in asking):
        rows = verification if str(context.abstract_syntax) == "1.2.840.10008.1.1" else storage
        assert [uid for row in rows for uid in UID.findall(row[1])] == [str(uid) for uid in context.transfer_syntax]
    decoded = {uid for row in storage for uid in UID.findall(row[1])}
    assert decoded == {str(uid) for uid in DECODABLE_SYNTAXES}


def test_sop_classes_sent(statement: Any) -> None:
    rows = statement.tables["1.2 SOP classes sent and asked for (SCU)"]
    listed = [uid for row in rows for uid in UID.findall(row[1])]
    assert listed == [*STORED_SOP_CLASSES, COMMITMENT_SOP_CLASS, FIND_SOP_CLASS]
    assert len(TRANSFER_SYNTAXES) == 2
    assert {row[2] for row in rows} == {"Explicit VR Little Endian, Implicit VR Little Endian"}
    order = statement.text.partition("##### 4.2.2.2")[2].partition("#####")[0]
    assert UID.findall(order) == list(STORED_SOP_CLASSES[:3])


def test_statuses(statement: Any) -> None:
    rows = statement.tables["4.2.1.5 Storage: statuses"]
    assert [(int(row[0].strip("`"), 16), row[1]) for row in rows] == [(each.code, each.name) for each in statuses.ALL]


def test_storage_commitment(statement: Any) -> None:
    answers, reasons = (
        [row for row in statement.tables["4.2.1.7 Storage Commitment (SCP)"] if len(row) == width] for width in (3, 2)
    )
    said = [(int(row[0].strip("`"), 16), row[1]) for row in answers]
    assert said == [(each.code, each.name) for each in commitment_scp.STATUSES]
    codes_ = [int(row[0].split()[0].strip("`"), 16) for row in reasons]
    assert codes_ == [commitments.NO_SUCH_INSTANCE, commitments.CLASS_CONFLICT]
    days = f"`listener.commitment.keep_days` ({ListenerSettings().commitment.keep_days:.0f})"
    assert days in statement.text.replace("\n", " ")


def test_rejections(statement: Any) -> None:
    rows = statement.tables["4.2.1.2 Association acceptance"]
    assert {(row[0].strip("`"), tuple(map(int, row[1:4]))) for row in rows} == {
        (each.code, each.answer) for each in Rejection
    }


def test_reasons(statement: Any) -> None:
    rows = statement.tables["4.2.1.6 Storage: acceptance filter"]
    assert {row[0].strip("`"): row[1] for row in rows} == dict(REASONS)


def test_identification(statement: Any) -> None:
    said = {row[0]: row[1] for row in statement.tables["4.2.1.1 Associations"]}
    assert said["Implementation Class UID"] == f"`{product.IMPLEMENTATION_CLASS_UID}`"
    assert said["Implementation Version Name"] == f"`{product.IMPLEMENTATION_VERSION_NAME}`"
    defaults = ListenerSettings()
    assert f"{defaults.max_pdu_bytes} bytes" in said["Maximum PDU received"]
    assert said["Associations at the same time"].startswith(f"{defaults.max_associations} ")
    assert defaults.ae_title in said["Default AE title"]


def test_every_status_of_a_destination_is_handled_as_the_page_says(statement: Any) -> None:
    documented: dict[int, str] = {}
    for cell, meaning in statement.tables["4.2.2.3 Storage: response handling and retries"]:
        kind = "stored" if meaning.startswith("stored") else "final" if meaning.startswith("`dead`") else "again"
        for part in cell.split(", "):
            first, _, last = part.replace("`", "").partition("-")
            if first.startswith("0x"):
                documented |= dict.fromkeys(range(int(first, 16), int(last or first, 16) + 1), kind)
    for status in range(0x10000):
        if delivery_statuses.is_stored(status):
            implemented = "stored"
        else:
            implemented = "again" if delivery_statuses.store_fault(status).retryable else "final"
        assert documented.get(status, "again") == implemented, f"0x{status:04X}"


def test_http_statuses(statement: Any) -> None:
    text = statement.text.partition("##### 4.2.2.5")[2].partition("#####")[0].replace("\n", " ")
    documented = {}
    for listed, outcome in re.findall(r"HTTP ([\d, and]+)(?: and redirects)?: (dead|`access_refused`)", text):
        documented |= dict.fromkeys(map(int, re.findall(r"\d+", listed)), outcome)
    for status in range(300, 600):
        fault = delivery_statuses.http_fault(status)
        implemented = "dead" if not fault.retryable else f"`{fault.code}`"
        if status < 400:
            assert implemented == "`access_refused`"
        else:
            assert documented.get(status, "`peer_busy`") == implemented, status


def own_codes() -> Iterator[Code]:
    for value in vars(codes).values():
        yield from (each for each in (value.values() if isinstance(value, dict) else [value]) if isinstance(each, Code))


def test_codes(statement: Any) -> None:
    private = {each for each in own_codes() if each.scheme_designator == product.CODING_SCHEME_DESIGNATOR}
    rows = statement.tables["E.1 Private codes"]
    assert {(row[0].strip("`"), row[1]) for row in rows} == {(each.value, each.meaning) for each in private}
    public = {(each.scheme_designator, each.value, each.meaning) for each in set(own_codes()) - private}
    rows = statement.tables["E.3 Other public codes"]
    assert {(row[0], row[1].strip("`"), row[2]) for row in rows} == public
    assert product.CODING_SCHEME_DESIGNATOR in statement.text.partition("### E.1")[2].partition("|")[0]


def test_findings(statement: Any) -> None:
    rows = {row[0].strip("`"): row for row in statement.tables["E.2 Findings"]}
    assert set(rows) == set(FINDINGS)
    for name, finding in FINDINGS.items():
        assert f"({finding.code.value}, {finding.code.scheme_designator}, “{finding.code.meaning}”)" == rows[name][1]
        assert (rows[name][2] == "none") is (finding.finding_site is None)


def test_copied_attributes(statement: Any) -> None:
    listed = tags(statement.tables["C Mapping of copied attributes"])
    assert listed == {tag_for_keyword(keyword) for keyword in COPIED}
    # What the digest of a resend covers is what is copied, and what the tree refers to.
    assert {tag_for_keyword(keyword) for keyword in COPIED_KEYWORDS} == listed | {
        tag_for_keyword(keyword) for keyword in REFERENCED if keyword not in ("SOPInstanceUID", "StudyInstanceUID")
    }


class Watched(Dataset):
    """A dataset that remembers which elements were asked for."""

    asked: set[int]

    def __contains__(self, name: Any) -> bool:
        if isinstance(name, int):
            self.asked.add(int(name))
        return super().__contains__(name)

    def get_item(self, key: Any, **keywords: Any) -> Any:
        self.asked.add(int(key))
        return super().get_item(key, **keywords)


def test_attributes_that_decide(statement: Any, synthetic_xray: Callable[..., Dataset]) -> None:
    """Whatever `read_header` asks a header for, and nothing else."""
    documented = tags(statement.tables["B.1 For the decision and the audit database"])
    watched = Watched()
    watched.asked = set()
    watched.update(synthetic_xray())
    watched.asked.clear()
    read_header(watched)
    copied = {tag_for_keyword(keyword) for keyword in (*COPIED_KEYWORDS, "PixelData")}
    pixels = tags(statement.tables["B.2 For the pixels"])
    assert watched.asked <= documented | copied | pixels
    assert documented <= watched.asked


@pytest.fixture
def reports(
    synthetic_xray: Callable[..., Dataset], model_manifest: Callable[..., Any], scored_by: Callable[..., Any]
) -> dict[str, Dataset]:
    """Reports that together have everything that a report can have, and an evidence map."""

    def source(**elements: Any) -> Dataset:
        image = synthetic_xray(**elements)
        del image.PixelData
        return dcmread(BytesIO(encode(image)))

    digests = SourceDigests(pixel_digest="p" * 64, identity_digest="i" * 64)
    binary, four = model_manifest(threshold=0.5), model_manifest("covid19", "viral_pneumonia", "lung_opacity", "normal")
    rich = scored_by(binary, warnings=("too_dark",))
    capture = evidence_map.build_evidence_map(
        source(**TRIAL_AND_MORE),
        scored_by(binary),
        np.full((8, 8, 1), 0.5, np.float32),
        np.ones((2, 2, 1), np.float32),
        digests=digests,
        created=CREATED,
    )
    reference = evidence_map.reference_to(capture, scored_by(binary))
    return {
        "plain": build_report(
            source(), scored_by(binary), binary, digests=digests, created=CREATED, evidence_map=reference
        ).dataset,
        "rich": build_report(source(**TRIAL_AND_MORE), rich, binary, digests=digests, created=CREATED).dataset,
        "four": build_report(source(), scored_by(four), four, digests=digests, created=CREATED).dataset,
        "poor": build_report(
            source(PatientOrientation=None, Rows=None, Columns=None),
            scored_by(four),
            four,
            digests=digests,
            created=CREATED,
        ).dataset,
        "map": capture.dataset,
    }


def keywords_of(text: str) -> set[str]:
    return {word for word in re.findall(r"`([A-Z][A-Za-z]+)`", text) if tag_for_keyword(word)}


def test_attributes_of_created_reports(statement: Any, reports: dict[str, Dataset]) -> None:
    rows = statement.tables["A.1 Comprehensive 3D SR, and the fall-back classes"]
    documented = {keyword for row in rows for keyword in keywords_of(row[2])}
    written = {element.keyword for name in ("plain", "rich", "four", "poor") for element in reports[name]}
    assert documented == written


def test_attributes_of_evidence_maps(statement: Any, reports: dict[str, Dataset]) -> None:
    shared = ("Patient", "Clinical Trial", "General Study", "General Equipment", "SOP Common")
    rows = statement.tables["A.1 Comprehensive 3D SR, and the fall-back classes"]
    documented = {keyword for row in rows if row[0].startswith(shared) for keyword in keywords_of(row[2])}
    documented |= keywords_of(statement.text.partition("### A.2")[2].partition("## B ")[0])
    assert documented == {element.keyword for element in reports["map"]}


def items(item: Dataset, depth: int = 0) -> Iterator[tuple[int, str, str, str, str]]:
    for child in item.get("ContentSequence", ()):
        name = child.ConceptNameCodeSequence[0]
        concept = f"({name.CodeValue}, {name.CodingSchemeDesignator}) {name.CodeMeaning}"
        yield depth, child.RelationshipType, child.ValueType, concept
        yield from items(child, depth + 1)


def test_the_content_tree(statement: Any, reports: dict[str, Dataset]) -> None:
    rows = statement.tables["A.1.2 Content (TID 1500)"]
    documented = [(len(row[0]), row[1], row[2], row[3]) for row in rows]
    written = [list(items(reports[name])) for name in ("plain", "rich", "four", "poor")]
    assert set(documented) == {item for tree in written for item in tree}
    # In the page's order, where a report has it once.
    assert documented == list(dict.fromkeys(written[0]))
    for row, item in zip(rows, documented, strict=True):
        if row[5].startswith("1") and "-" not in row[5]:
            assert all(item in tree for tree in written), item


def test_coded_values_of_the_content_tree(statement: Any, reports: dict[str, Dataset]) -> None:
    """Fixed values stand on the page as they stand in the report."""

    def values(item: Dataset) -> Iterator[tuple[str, str]]:
        for child in item.get("ContentSequence", ()):
            if child.ValueType == "CODE":
                value = child.ConceptCodeSequence[0]
                written = f"({value.CodeValue}, {value.CodingSchemeDesignator}, “{value.CodeMeaning}”)"
                yield child.ConceptNameCodeSequence[0].CodeValue, written
            yield from values(child)

    fixed = {
        match[1]: row[4]
        for row in statement.tables["A.1.2 Content (TID 1500)"]
        if row[2] == "CODE" and row[4].endswith("”)") and (match := re.match(r"\((\S+),", row[3]))
    }
    found = dict(values(reports["plain"]))
    assert len(fixed) >= 6
    assert {concept: found[concept] for concept in fixed} == fixed
