"""The wheel holds every module that git tracks, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = ("app/", "config/", "cxr/", "db/", "inference/", "listener/", "training/")

SITE_FILES = (
    "systemd/cxr-listen.service",
    "systemd/cxr-work.service",
    "orthanc/autoroute.lua",
    "example/frontal.dcm",
)


def test_wheel_holds_what_git_tracks(root: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    listed = subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    tracked = {name for name in listed if name.startswith(PACKAGES)}
    assert tracked, "git lists nothing: is this a checkout?"
    assert packed >= tracked, f"not in the wheel: {sorted(tracked - packed)}"
    assert {name.split("/")[0] + "/" for name in packed} == set(PACKAGES)
    assert packed >= {f"app/setup/{name}" for name in SITE_FILES}
