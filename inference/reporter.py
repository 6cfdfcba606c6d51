"""From one scored image to its files in the spool: the SR and, if wished, the evidence map.

The stamps of a report's content are taken here, once; retries of its delivery send these bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from cxr.header import open_dataset
from numpy.typing import NDArray

from db.records import ClaimedJob, ReportRecord
from inference import report

if TYPE_CHECKING:
    from cxr.package import PackageManifest

    from cxr.domain import ScoredImage
    from db.spool import Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Builds the objects that say what came of an image, and keeps them in the spool."""

    spool: Spool
    options: report.ReportOptions
    clock: Callable[[], datetime]
    max_inflated_bytes: int
    saliency: bool = False
    deliver_untrained: bool = False

    def write(
        self,
        job: ClaimedJob,
        scored: ScoredImage,
        manifest: PackageManifest,
        pixels: NDArray[np.float32],
        evidence: NDArray[np.float32] | None,
    ) -> list[ReportRecord]:
        """Write the report, and the evidence map where there is one and it is wished.

        Parameters
        ----------
        job
            Names the received object in the spool.
        scored
            What the model says.
        manifest
            The model package.
        pixels
            What the model saw; shape (size, size, 1), in [0, 1].
        evidence
            Evidence per class, shape (rows, columns, classes), in logits; None: the model has none.

        Raises
        ------
        ReportError
            If the source's header does not allow a valid report.
        SpoolFull
            If there is no room.
        """
        source = open_dataset(self.spool.path(job.spool_name), max_inflated_bytes=self.max_inflated_bytes)
        created = self.clock()
        built = [("sr", self._build_report(source, job, scored, manifest, created))]
        if self.saliency and evidence is not None:
            built.append(("saliency", self._build_saliency(source, job, scored, manifest, pixels, evidence, created)))
        return [self._keep(kind, result, created) for kind, result in built]
