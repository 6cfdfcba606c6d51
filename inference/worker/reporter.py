"""Build the SR of a scored image and, if enabled, its evidence map, and write both to the spool.

The time of creation is taken here, once; retries of the delivery send the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr.dicom import open_dataset, read_header
from cxr.pixels.geometry import Geometry, read_geometry
from db.schema.records import ClaimedJob, ReportKind, ReportRecord
from inference.report import evidence_map
from inference.report.build import BuiltReport, ReportOptions, SourceDigests, build_report
from inference.report.check import TreeCheck

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

    from cxr.domain import ScoredImage
    from cxr.package import PackageManifest
    from db.disk import Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Builds the objects of a scored image and writes them to the spool."""

    spool: Spool
    options: ReportOptions
    clock: Callable[[], datetime]
    max_inflated_bytes: int
    saliency: bool = False
    deliver_untrained: bool = False
    check: TreeCheck = field(default_factory=TreeCheck)

    def write(
        self,
        job: ClaimedJob,
        scored: ScoredImage,
        manifest: PackageManifest,
        pixels: NDArray[np.float32],
        evidence: NDArray[np.float32] | None,
    ) -> list[ReportRecord]:
        """Write the report, and the evidence map if it is enabled and available.

        Parameters
        ----------
        job
            Job of the image; names the received object in the spool.
        scored
            Scores of the image.
        manifest
            Manifest of the model package.
        pixels
            Input of the model; shape (size, size, 1), in [0, 1].
        evidence
            Evidence per class, shape (rows, columns, classes): the model's own map in logits, or Grad-CAM if the
            package has none; None: no map is drawn.

        Raises
        ------
        ReportError
            If the source's header does not allow a valid report.
        SpoolFull
            If the spool's disk is full.
        """
        path = self.spool.path(job.spool_name)
        digests = SourceDigests(pixel_digest=job.pixel_digest or "", identity_digest=job.identity_digest)
        created = self.clock()
        capture: BuiltReport | None = None
        if self.saliency and evidence is not None:
            capture = evidence_map.build_evidence_map(
                self._source(path),
                scored,
                pixels,
                evidence,
                digests=digests,
                created=created,
                options=self.options,
                method=evidence_map.Method.of(manifest),
            )
        built = build_report(
            self._source(path),
            scored,
            manifest,
            digests=digests,
            created=created,
            options=self.options,
            check=self.check,
            evidence_map=None if capture is None else evidence_map.reference_to(capture, scored),
        )
        records = [self._store("sr", built, created)]
        if capture is not None:
            records.append(self._store("saliency", capture, created))
        return records

    def shape_of(self, job: ClaimedJob) -> tuple[int, int] | None:
        """Return rows and columns of the received image; None: absent in its header."""
        header = read_header(self._source(self.spool.path(job.spool_name)))
        return (header.rows, header.columns) if header.rows and header.columns else None

    def geometry_of(self, job: ClaimedJob) -> Geometry:
        """Return the orientation of the received image, by its header."""
        return read_geometry(self._source(self.spool.path(job.spool_name)))

    def _source(self, path: Path) -> Dataset:
        return open_dataset(path, max_inflated_bytes=self.max_inflated_bytes)

    def _store(self, kind: ReportKind, built: BuiltReport, created: datetime) -> ReportRecord:
        return ReportRecord(
            kind=kind,
            sop_class_uid=built.sop_class_uid,
            sop_instance_uid=built.sop_instance_uid,
            series_instance_uid=built.series_instance_uid,
            spool_name=self.spool.write(built.content, suffix=".dcm"),
            content_digest=built.content_digest,
            created_at=created,
        )
