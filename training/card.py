"""Model cards: what a package is, in words, beside its figures."""

from __future__ import annotations

from cxr.manifest import PackageManifest
from cxr.marks import NOTICE_SENTENCE, UNTRAINED

_UNTRAINED_CARD = """\
# {name} {version}

**{mark}.** The weights of this network are random numbers. It has seen no image, its scores say nothing about \
any patient, and it exists so that the service can be installed and tried before a model is trained. {notice}

| | |
|---|---|
| status | {status} |
| architecture | {architecture}, random weights, seed {seed} |
| outputs | {findings} ({activation}, not calibrated, no operating point) |
| input | {size} x {size} pixels, one channel in [0, 1]; recipe `{recipe}` |
| training data | none |
| evaluation | none: there is nothing to evaluate |
| made | {created} |

## Intended use

Trying out the way of an image from the PACS to a DICOM SR and back, and nothing else. Results of this package carry \
the words above wherever they appear, and are delivered to a PACS only with the setting `report.deliver_untrained`.
"""


def untrained_card(manifest: PackageManifest) -> str:
    """Write the card of a package with random weights, in Markdown."""
    return _UNTRAINED_CARD.format(
        name=manifest.name,
        version=manifest.version,
        mark=UNTRAINED,
        notice=NOTICE_SENTENCE,
        status=manifest.status.value,
        architecture=manifest.provenance.architecture,
        seed=manifest.provenance.seed,
        findings=", ".join(manifest.findings),
        activation=manifest.activation,
        size=manifest.input_size,
        recipe=manifest.recipe.digest,
        created=manifest.provenance.created.isoformat(),
    )
