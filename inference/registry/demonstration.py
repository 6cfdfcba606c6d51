"""Make a demonstration package: what a package becomes when it is promoted past a gate.

A package is never changed: its fingerprint stands in results. The copy has the same weights, a
status that is said beside every result, the accepted gates in its manifest, and a card whose first
paragraph begins with them; so it has a fingerprint of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from cxr.domain import PackageStatus
from cxr.package import MODEL_CARD_FILE, AcceptedGate, ModelPackage, write_package
from cxr.product import DEMONSTRATION
from inference.registry.gates import GateResult


def demonstrate(
    package: ModelPackage, folder: Path, failed: Sequence[GateResult], reasons: Mapping[str, str], *, now: datetime
) -> ModelPackage:
    """Copy a package as a demonstration.

    Parameters
    ----------
    package
        Trained, verified.
    folder
        The folder to make; it must not exist.
    failed
        The gates that it fails and that somebody accepted; at least one.
    reasons
        Of each gate's name: why it was accepted.
    now
        When.

    Raises
    ------
    PackageError
        If the folder can't be written.
    """
    manifest = package.manifest
    accepted = tuple(
        AcceptedGate(
            name=gate.name,
            figure=f"{gate.figure} (wanted: {gate.bar})",
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
    """Put the mark and the gates in front of the card's first paragraph, behind its title."""
    said = " ".join(
        f"Promoted on {gate.accepted_at:%Y-%m-%d} although it fails the gate `{gate.name}`: {gate.figure}. "
        f"Accepted because: {gate.reason}."
        for gate in accepted
    )
    title, line_end, rest = card.partition("\n") if card.startswith("#") else ("", "", card)
    heading = f"{title}{line_end}\n" if title else ""
    return f"{heading}**{DEMONSTRATION}.** {said} {rest.lstrip()}"
