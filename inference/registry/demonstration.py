"""Demonstration packages: marked copies of packages that were promoted although a gate failed.

A package is never changed, because results hold its fingerprint. The copy has the same weights, the status
``demonstration`` (shown beside every result), the accepted gates in its manifest and at the start of its model
card; it therefore has a fingerprint of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from cxr.domain import PackageStatus
from cxr.package import MODEL_CARD_FILE, AcceptedGate, ModelPackage, write_package
from cxr.product import DEMONSTRATION
from inference.registry.gates import GateResult


def write_demonstration(
    package: ModelPackage, folder: Path, failed: Sequence[GateResult], reasons: Mapping[str, str], *, now: datetime
) -> ModelPackage:
    """Copy a package as a demonstration.

    Parameters
    ----------
    package
        Trained and verified package.
    folder
        Folder to create; it must not exist.
    failed
        Failed gates that were accepted; at least one.
    reasons
        Reason of acceptance, by gate name.
    now
        Time of acceptance.

    Raises
    ------
    PackageError
        If the folder can't be written.
    """
    manifest = package.manifest
    accepted = tuple(
        AcceptedGate(
            name=gate.name,
            figure=f"{gate.figure} (wanted: {gate.requirement})",
            reason=" ".join(reasons[gate.name].split()),
            accepted_at=now,
        )
        for gate in failed
    )
    provenance = manifest.provenance
    changes = {
        "status": PackageStatus.DEMONSTRATION,
        "accepted_gates": manifest.accepted_gates + accepted,
        "provenance": provenance.model_copy(update={"parents": (*provenance.parents, package.fingerprint)}),
        "files": {},
    }
    contents: dict[str, bytes | Path] = {name: package.folder / name for name in manifest.files}
    card = (package.folder / MODEL_CARD_FILE).read_text(encoding="utf-8")
    contents[MODEL_CARD_FILE] = _mark(card, accepted).encode()
    return write_package(folder, manifest.model_copy(update=changes), contents)


def _mark(card: str, accepted: Sequence[AcceptedGate]) -> str:
    """Insert the demonstration mark and the accepted gates after the card's title."""
    sentences = " ".join(
        f"Promoted on {gate.accepted_at:%Y-%m-%d} although it fails the gate `{gate.name}`: {gate.figure}. "
        f"Accepted because: {gate.reason}."
        for gate in accepted
    )
    title, line_end, rest = card.partition("\n") if card.startswith("#") else ("", "", card)
    heading = f"{title}{line_end}\n" if title else ""
    rest = re.sub(
        r"^\| status \| \S+ \|$", f"| status | {PackageStatus.DEMONSTRATION.value} |", rest, flags=re.MULTILINE
    )
    return f"{heading}**{DEMONSTRATION}.** {sentences} {rest.lstrip()}"
