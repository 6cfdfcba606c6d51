"""What the images hold, and under which licences: made by `make sbom` from the locks."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make sbom` writes; its recipe is run here with another folder."""
    folder = tmp_path_factory.mktemp("dist")
    command = ["make", "--no-print-directory", "--dry-run", "--assume-old=install", "sbom"]
    planned = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    recipe = planned.stdout.replace("dist/", f"{folder}/").replace("mkdir -p dist", "")
    subprocess.run(["bash", "-euc", recipe], cwd=root, capture_output=True, check=True, timeout=120)
    return folder


def _pinned(lock: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;]+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("image", ["listener", "worker", "gpu"])
def test_every_pinned_package_is_listed_with_its_hashes(root: Path, made: Path, image: str) -> None:
    document = json.loads((made / f"sbom-{image}.cdx.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "cxr-listener"
    listed = {(component["name"], component["version"]): component for component in document["components"]}
    assert set(listed) == _pinned(root / "locks" / f"{image}.txt")
    for name, component in listed.items():
        hashes = [each for reference in component["externalReferences"] for each in reference.get("hashes", [])]
        assert {each["alg"] for each in hashes} == {"SHA-256"}, name


def test_every_package_has_a_licence(root: Path, made: Path) -> None:
    rows = (made / "licences.md").read_text().splitlines()[2:]
    licences = {row.split("|")[1].strip().lower(): row.split("|")[3].strip() for row in rows}
    # namex forgot to say it in its metadata; it is Apache-2.0, as Keras, which it was made for; pysqlite3 is Zlib.
    assert {name for name, licence in licences.items() if licence in ("", "UNKNOWN")} <= {"namex", "pysqlite3"}
    for name in ("pydicom", "pynetdicom", "tensorflow", "sqlalchemy", "numpy"):
        assert licences[name]
