"""Building and writing a report, with the highdicom check of every tree, and of each tree shape once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from figures import Figure, Part
from processes import write_objects
from timing import processor_ms

from cxr.dicom import open_dataset
from cxr.domain import PackageStatus, Score, ScoredImage
from cxr.labels import FINDINGS
from cxr.package import PackageClass, PackageManifest, Provenance
from cxr.pixels.recipe import DEFAULT_RECIPE
from inference.report.build import SourceDigests, build_report
from inference.report.check import TreeCheck, warm_up

CREATED = datetime(2024, 1, 1, tzinfo=UTC)
MODELS = {"one finding": ("covid19",), "four findings": ("covid19", "viral_pneumonia", "lung_opacity", "normal")}
FULL_MS, REUSED_MS = 80.0, 35.0


def measure(folder: Path, *, quick: bool) -> Part:
    (path,) = write_objects(folder, 1, 3264, 2448)
    warm_up()
    repeats = 5 if quick else 25
    lines, figures = [], []
    for name, findings in MODELS.items():
        manifest, scored = model_of(findings)
        tree_check = TreeCheck()

        def build(check: TreeCheck | None, manifest=manifest, scored=scored) -> None:
            built = build_report(
                open_dataset(path),
                scored,
                manifest,
                digests=SourceDigests(pixel_digest="a" * 64, identity_digest="b" * 64),
                created=CREATED,
                check=check,
            )
            (folder / "report.dcm").write_bytes(built.content)

        full = processor_ms(lambda build=build: build(None), repeats=repeats)
        reused = processor_ms(lambda build=build, tree_check=tree_check: build(tree_check), repeats=repeats)
        lines.append(f"| {name} | {full:.0f} | {reused:.0f} | {full / reused:.1f} |")
        figures += [
            Figure(
                f"SR build + write, {name}, checked whole", f"≤ {FULL_MS:.0f} ms", f"{full:.0f} ms", full <= FULL_MS
            ),
            Figure(
                f"SR build + write, {name}, shape checked before",
                f"≤ {REUSED_MS:.0f} ms, same bytes (tests)",
                f"{reused:.0f} ms",
                reused <= REUSED_MS,
            ),
        ]
    return Part(
        "## Report\n\n`python bench/run.py report` · milliseconds of processor time from the received file to the "
        "report's file, not synced\n\n| model | checked whole | shape checked before | ratio |\n|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n",
        figures,
    )


def model_of(findings: tuple[str, ...]) -> tuple[PackageManifest, ScoredImage]:
    manifest = PackageManifest(
        name="bench",
        version="1.0.0",
        status=PackageStatus.EVALUATED,
        classes=tuple(PackageClass(finding=name, code=FINDINGS[name].code, threshold=0.5) for name in findings),
        activation="sigmoid" if len(findings) == 1 else "softmax",
        recipe=DEFAULT_RECIPE,
        provenance=Provenance(training_data="none", architecture="none", created=CREATED),
        files={"model.keras": "ab" * 32, "MODEL_CARD.md": "cd" * 32},
    )
    scored = ScoredImage(
        scores=tuple(Score(finding=name, score=0.3, threshold=0.5) for name in findings),
        model_name=manifest.name,
        model_version=manifest.version,
        fingerprint="01" * 32,
        status=manifest.status,
        scored_at=CREATED,
        device="cpu",
    )
    return manifest, scored
