"""The model package: folder, manifest, and optional components.

Components (``lung_mask``, ``input_gate``, ``view_model``, ...) are imported from their modules; ``lung_mask`` loads
OpenCV.
"""

from __future__ import annotations

from cxr.package.folder import (
    MANIFEST_FILE,
    MODEL_CARD_FILE,
    MODEL_FILE,
    ModelPackage,
    load_package,
    read_manifest,
    write_package,
)
from cxr.package.manifest import AcceptedGate, OperatingPoint, Outputs, PackageClass, PackageManifest, Provenance

__all__ = [
    "MANIFEST_FILE",
    "MODEL_CARD_FILE",
    "MODEL_FILE",
    "AcceptedGate",
    "ModelPackage",
    "OperatingPoint",
    "Outputs",
    "PackageClass",
    "PackageManifest",
    "Provenance",
    "load_package",
    "read_manifest",
    "write_package",
]
