"""Tables of the documentation that are generated from the code, between two marks of a page.

The marks are ``<!-- table: statuses -->`` and ``<!-- end of table -->``; ``make docs`` writes the tables, and a test
compares the pages with the code.
"""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, groupby
from pathlib import Path

from prometheus_client import CollectorRegistry
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom.sop_class import Verification

from app.metrics import QueueCollector
from config.settings import ListenerSettings
from cxr import product
from cxr.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES
from cxr.domain import Code, PackageStatus, Score, ScoredImage
from cxr.view import REASONS
from cxr.view.decide import NEVER_ASSUMED
from db.disk import Spool
from db.engine import open_database
from db.models import record_activation
from db.schema.records import Activation
from inference.delivery import statuses as delivery_statuses
from inference.delivery.commitment_scu import COMMITMENT_SOP_CLASS
from inference.delivery.dicom_client import STORED_SOP_CLASSES, TRANSFER_SYNTAXES
from inference.delivery.dicom_verifier import FIND_SOP_CLASS
from inference.report import codes, copying
from inference.report.fallback import FALLBACK_SOP_CLASSES
from inference.worker.metrics import WorkerMetrics
from listener import commitment_scp, contexts, statuses
from listener.admission import Rejection
from listener.metrics import Metrics

_ROOT = Path(__file__).resolve().parent.parent
_MARKED = re.compile(r"(<!-- table: (?P<name>[a-z_]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)

_REJECTIONS: Mapping[Rejection, str] = {
    Rejection.APPLICATION_CONTEXT: "The application context name is not DICOM's (1.2.840.10008.3.1.1.1).",
    Rejection.CALLING_AE_TITLE: "No `[[peers]]` entry has this calling AE title and network; without entries, the peer "
    "is not on loopback, or its title is empty or has characters that no AE title has.",
    Rejection.CALLED_AE_TITLE: "The peer calls another AE title than `listener.ae_title` "
    "(`listener.check_called_ae_title`).",
    Rejection.SPOOL_FULL: "Less space is free than `listener.min_free_mib`.",
    Rejection.STOPPING: "The service is stopping.",
    Rejection.TOO_MANY: "`listener.max_associations` associations are open.",
    Rejection.TOO_MANY_OF_PEER: "`max_associations` of the peer's `[[peers]]` entry are open.",
}

_PIXEL_MODULES = ("cxr/pixels/geometry.py", "cxr/pixels/pixel_header.py", "cxr/pixels/decode.py", "cxr/pixels/luts.py")


def filled(page: str) -> str:
    """Return a page with every marked table written anew.

    Parameters
    ----------
    page
        Text of the page.

    Raises
    ------
    KeyError
        If a mark names an unknown table.
    """
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}\n{found[3]}", page)


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def scp_classes() -> str:
    """SOP classes that the listener accepts, in the order of its presentation contexts."""

    def rows() -> Iterator[tuple[str, ...]]:
        yield Verification.name, f"`{Verification}`", "always", "C-ECHO: Success"
        for uid in contexts.storage_classes(ListenerSettings(secondary_capture=True)):
            if uid in contexts.SCORED_CLASSES:
                how = ("always", "frontal chest images are kept and scored")
            elif uid in contexts.UNSCORED_CLASSES:
                how = ("always", "Success; recorded as `not_scored` (`for_processing`), not kept")
            else:
                how = ("`listener.secondary_capture`", "frontal chest images are kept and scored")
            yield (uid.name, f"`{uid}`", *how)
        how = ("`listener.commitment.enabled`", "not stored: N-ACTION and N-EVENT-REPORT, see 4.2.1.7")
        yield (UID(commitment_scp.SOP_CLASS).name, f"`{commitment_scp.SOP_CLASS}`", *how)
        every_other = f"Success; recorded as `not_scored` (`{contexts.NOT_ACCEPTED_REASON}`), not kept"
        yield "every other storage class, private ones included", "", "`listener.accept_all_storage`", every_other

    return _table(("SOP class", "UID", "Accepted", "Result for an object"), rows())


def commitment_statuses() -> str:
    """Statuses of N-ACTION responses."""
    rows = ((f"`0x{each.code:04X}`", each.name, each.meaning) for each in commitment_scp.STATUSES[1:])
    taken = ("`0x0000`", commitment_scp.SUCCESS.name, "The request is recorded; a report follows.")
    return _table(("Status", "Name", "When"), chain([taken], rows))


def scu_classes() -> str:
    """SOP classes that delivery proposes."""
    notes = {
        STORED_SOP_CLASSES[0]: "the report, as written",
        **dict.fromkeys(FALLBACK_SOP_CLASSES, "the report, if the peer takes none of those above"),
        str(SecondaryCaptureImageStorage): "the evidence map (`report.saliency`)",
        COMMITMENT_SOP_CLASS: "verification of arrival (N-ACTION; N-EVENT-REPORT as SCU)",
        FIND_SOP_CLASS: "verification of arrival (C-FIND at IMAGE level)",
    }
    syntaxes = ", ".join(UID(uid).name for uid in TRANSFER_SYNTAXES)
    rows = ((UID(uid).name, f"`{uid}`", syntaxes, note) for uid, note in notes.items())
    return _table(("SOP class", "UID", "Transfer syntaxes, each in a context of its own", "Purpose"), rows)


def transfer_syntaxes() -> str:
    """Transfer syntaxes of the listener, the preferred one first."""
    rows = (
        (UID(uid).name, f"`{uid}`", "decoder of the worker" if uid in COMPRESSED_SYNTAXES else "as they are")
        for uid in contexts.TRANSFER_SYNTAXES
    )
    return _table(("Transfer syntax", "UID", "Pixels"), rows)


def verification_syntaxes() -> str:
    """Transfer syntaxes of a C-ECHO."""
    rows = ((uid.name, f"`{uid}`") for uid in (ImplicitVRLittleEndian, ExplicitVRLittleEndian))
    return _table(("Transfer syntax", "UID"), rows)


def store_statuses() -> str:
    """Statuses of C-STORE responses of the listener."""
    rows = ((f"`0x{each.code:04X}`", each.name, each.meaning) for each in statuses.ALL)
    return _table(("Status", "Name", "When, and what the peer can do"), rows)


def rejections() -> str:
    """A-ASSOCIATE-RJ of the listener."""
    rows = ((f"`{each.code}`", *(str(number) for number in each.answer), _REJECTIONS[each]) for each in Rejection)
    return _table(("Code", "Result", "Source", "Reason", "When"), rows)


def reasons() -> str:
    """Reason codes of a view decision."""
    rows = ((f"`{code}`", meaning, "yes" if code in NEVER_ASSUMED else "") for code, meaning in REASONS.items())
    return _table(("Reason", "Meaning", "Held even with `view.unknown = score`"), rows)


def _codes() -> Iterator[tuple[str, Code]]:
    """Yield every code of a report with its name in `inference.report.codes`."""
    for name, value in vars(codes).items():
        if isinstance(value, Code):
            yield name, value
        elif isinstance(value, dict):
            yield from ((name, code) for code in value.values() if isinstance(code, Code))


def private_codes() -> str:
    """Codes of the scheme of this project."""
    own = (code for _, code in _codes() if code.scheme_designator == product.CODING_SCHEME_DESIGNATOR)
    return _table(("Code value", "Code meaning"), ((f"`{code.value}`", code.meaning) for code in own))


def public_codes() -> str:
    """Codes of other schemes, without those of the findings."""
    others = {code for _, code in _codes() if code.scheme_designator != product.CODING_SCHEME_DESIGNATOR}
    ordered = sorted(others, key=lambda code: (code.scheme_designator, code.value))
    rows = ((code.scheme_designator, f"`{code.value}`", code.meaning) for code in ordered)
    return _table(("Scheme", "Code value", "Code meaning"), rows)


def findings() -> str:
    """Codes of the findings that a model package may have."""
    from cxr.labels import FINDINGS  # noqa: PLC0415 (keywords like this function's own subject)

    rows = (
        (
            f"`{each.name}`",
            f"({each.code.value}, {each.code.scheme_designator}, “{each.code.meaning}”)",
            f"({each.finding_site.value}, {each.finding_site.scheme_designator}, “{each.finding_site.meaning}”)"
            if each.finding_site
            else "none",
        )
        for each in FINDINGS.values()
    )
    return _table(("Our name", "Finding", "Finding Site"), rows)


def copied_attributes() -> str:
    """Attributes that are copied from an image into our objects."""
    groups = {
        copying.VERBATIM: "as it is, never shortened or repaired; absent: empty",
        tuple(copying.CHECKED): "as it is where its form is valid; else empty",
        copying.OPTIONAL: "as it is where it is valid; else absent",
        copying.DEIDENTIFICATION: "both or neither (type 1C)",
        copying.TRIAL_SUBJECT_REQUIRED: "only with the whole Clinical Trial Subject module",
        copying.TRIAL_SUBJECT_EMPTIABLE: "only with the whole Clinical Trial Subject module; may be empty",
        copying.TRIAL_SUBJECT_EITHER: "only with the whole Clinical Trial Subject module",
        copying.TRIAL_STUDY: "only with the Clinical Trial Study module",
        copying.EQUIPMENT: "into Contributing Equipment Sequence (109101, DCM), where it is valid",
    }
    how = {keyword: words for keywords, words in groups.items() for keyword in keywords}
    how |= {
        "SpecificCharacterSet": "as it is: text is taken over in its own encoding",
        "TimezoneOffsetFromUTC": "as it is where it is valid; our own stamps follow it",
        "StudyInstanceUID": "as it is",
    }
    rows = ((*_attribute(keyword), how[keyword]) for keyword in copying.COPIED)
    return _table(("Attribute", "Tag", "VR", "How"), rows)


def _attribute(keyword: str) -> tuple[str, str, str]:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return dictionary_description(tag), f"({tag.group:04X},{tag.element:04X})", dictionary_VR(tag)


def keywords_in(module: str) -> list[str]:
    """List the attribute keywords in the source of a module, in the order of their tags."""
    tree = ast.parse((_ROOT / module).read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return sorted((word for word in words if word[:1].isupper() and tag_for_keyword(word)), key=tag_for_keyword)


def header_attributes() -> str:
    """Attributes that the view decision reads or that are recorded."""
    return _table(("Attribute", "Tag", "VR"), map(_attribute, keywords_in("cxr/dicom/header.py")))


def pixel_attributes() -> str:
    """Attributes that pixel decoding reads."""
    keywords = {keyword for module in _PIXEL_MODULES for keyword in keywords_in(module)}
    return _table(("Attribute", "Tag", "VR"), map(_attribute, sorted(keywords, key=tag_for_keyword)))


def outcome_of(status: int) -> str:
    """Return the meaning of a C-STORE status of a destination for a delivery: stored, again or final."""
    if delivery_statuses.is_stored(status):
        return "stored"
    return "again" if delivery_statuses.store_fault(status).retryable else "final"


def response_handling() -> str:
    """Result of each C-STORE status for a delivery."""
    meanings = {
        "stored": "stored (a warning is recorded); verified afterwards",
        "final": "`dead` with `peer_refused`, until an operator requeues it",
        "again": "tried again with back-off, code `peer_busy`",
    }
    outcomes = {code: outcome_of(code) for code in range(0x10000)}
    runs: dict[str, list[str]] = {name: [] for name in meanings}
    for name, run in groupby(outcomes, key=outcomes.__getitem__):
        first, *_, last = [*run] * 2
        runs[name].append(f"`0x{first:04X}`" if first == last else f"`0x{first:04X}`-`0x{last:04X}`")
    runs["again"] = ["every other"]
    rows = ((", ".join(runs[name]), meaning) for name, meaning in meanings.items())
    return _table(("Status", "Result for the delivery"), rows)


def metrics() -> str:
    """Metrics of the listener."""
    listener = Metrics()
    listener.count_object("queued")
    listener.count_refusal("too_many")
    return _metrics_table(listener.registry)


def worker_metrics() -> str:
    """Metrics of the worker, with one example of each label."""
    registry = CollectorRegistry()
    worker = WorkerMetrics.on(registry)
    scored = ScoredImage(
        scores=(Score(finding="covid19", score=0.5),),
        model_name="m",
        model_version="1",
        fingerprint="f",
        status=PackageStatus.EVALUATED,
        scored_at=_ANY_TIME,
        device="cpu",
    )
    worker.results.count_report(scored, wait_s=0)
    worker.results.expect_destinations(["pacs"])
    worker.shadow.count("scored", 1)
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "spool", min_free_mib=1)
        spool.prepare()
        database = open_database(Path(folder) / "var" / "audit.sqlite", Path(folder) / "audit.key", create=True)
        with database.begin() as session:
            record_activation(
                session,
                Activation(
                    fingerprint="f",
                    name="m",
                    version="1",
                    status=PackageStatus.EVALUATED,
                    accepted_gates=(),
                    actor="",
                    reason="",
                    at=_ANY_TIME,
                ),
            )
        registry.register(QueueCollector(database, spool))
        table = _metrics_table(registry)
        database.dispose()
    return table


def _metrics_table(registry: CollectorRegistry) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for family in registry.collect():
            shown = [sample for sample in family.samples if not sample.name.endswith("_created")]
            name = family.name if family.type == "histogram" else shown[0].name
            labels = ", ".join(f"`{label}`" for label in shown[0].labels if label != "le")
            yield f"`{name}`", family.type, labels, family.documentation.removesuffix(".")

    return _table(("Metric", "Kind", "Labels", "Meaning"), rows())


TABLES: Mapping[str, Callable[[], str]] = {
    "scp_classes": scp_classes,
    "scu_classes": scu_classes,
    "transfer_syntaxes": transfer_syntaxes,
    "verification_syntaxes": verification_syntaxes,
    "statuses": store_statuses,
    "commitment_statuses": commitment_statuses,
    "rejections": rejections,
    "reasons": reasons,
    "private_codes": private_codes,
    "public_codes": public_codes,
    "findings": findings,
    "copied_attributes": copied_attributes,
    "header_attributes": header_attributes,
    "pixel_attributes": pixel_attributes,
    "response_handling": response_handling,
    "metrics": metrics,
    "worker_metrics": worker_metrics,
}
"""Tables by name."""
