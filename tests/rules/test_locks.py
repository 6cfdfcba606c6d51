"""The locks: pinned by hash, with their extras, and installable by old and new pips on any later day."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ("pip", "build", "bench", "mutants", "listener", "worker", "gpu", "dev")
PIPS = ("23.0.1", "23.2.1", "26.3")  # Debian 12's, Python 3.11.7's, and the newest on the day the locks were made
HEAVY = {"tensorflow", "keras", "opencv-python-headless", "highdicom", "imagecodecs", "matplotlib", "pandas", "scipy"}


def requirements(path: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """Each requirement of a lock, with its options."""
    locked: dict[str, tuple[Requirement, list[str]]] = {}
    for line in path.read_text().replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        text, *options = re.split(r"\s+(?=--)", line.strip())
        requirement = Requirement(text)
        locked[canonicalize_name(requirement.name)] = (requirement, options)
    return locked


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_pin_everything_by_hash_and_name_no_index(root: Path, lock: str) -> None:
    path = root / "locks" / f"{lock}.txt"
    assert not re.search(r"://|--index|--extra-index|--find-links|--trusted|@ ", path.read_text())
    for name, (requirement, options) in requirements(path).items():
        assert [clause.operator for clause in requirement.specifier] == ["=="], name
        assert options, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), name


def wanted(root: Path) -> dict[str, list[Requirement]]:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    base = project["project"]["dependencies"]
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    development = [each for each in groups["dev"] if isinstance(each, str)] + groups["build"]
    worker = base + extras["worker"]
    named = {
        "pip": groups["pip"],
        "bench": groups["bench"],
        "mutants": groups["mutants"],
        "build": groups["build"],
        "listener": base,
        "worker": worker,
        "gpu": worker + extras["gpu"],
        "dev": worker + development,
    }
    return {lock: [Requirement(each) for each in listed] for lock, listed in named.items()}


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_what_the_project_asks_for(root: Path, lock: str) -> None:
    locked = requirements(root / "locks" / f"{lock}.txt")
    for requirement in wanted(root)[lock]:
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name} is not in locks/{lock}.txt: make lock"
        (pin,) = locked[name][0].specifier
        assert requirement.specifier.contains(pin.version, prereleases=True), name
        assert requirement.extras <= locked[name][0].extras, name


def test_one_version_of_each_in_all_locks(root: Path) -> None:
    """What the tests ran with is what the images hold."""
    tested = requirements(root / "locks" / "dev.txt")
    for lock in ("build", "listener", "worker"):
        for name, (requirement, _) in requirements(root / "locks" / f"{lock}.txt").items():
            assert requirement.specifier == tested[name][0].specifier, name


def test_the_listener_holds_nothing_heavy(root: Path) -> None:
    assert HEAVY & set(requirements(root / "locks" / "listener.txt")) == set()
    assert set(requirements(root / "locks" / "worker.txt")) >= HEAVY


def test_the_gpu_lock_brings_cuda(root: Path) -> None:
    assert any(name.startswith("nvidia-") for name in requirements(root / "locks" / "gpu.txt"))
    assert not any(name.startswith("nvidia-") for name in requirements(root / "locks" / "worker.txt"))


def required_extras(locked: Mapping[str, tuple[Requirement, list[str]]]) -> dict[str, set[str]]:
    """The extras that the installed distributions of a lock require of each other."""
    extras: dict[str, set[str]] = {}
    for name, (requirement, _) in locked.items():
        try:
            declared = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform, or of the GPU: nothing of ours installs it here
        for each in map(Requirement, declared):
            scopes = requirement.extras or {""}
            is_needed = each.marker is None or any(each.marker.evaluate({"extra": scope}) for scope in scopes | {""})
            if each.extras and is_needed and canonicalize_name(each.name) in locked:
                extras.setdefault(canonicalize_name(each.name), set()).update(each.extras)
    return extras


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_carry_the_extras_that_distributions_require(root: Path, lock: str) -> None:
    """Without them pip before 25 looks for the newest release, and refuses it for lack of a hash."""
    locked = requirements(root / "locks" / f"{lock}.txt")
    required = required_extras(locked)
    missing = {name: extras - locked[name][0].extras for name, extras in required.items()}
    assert {name: extras for name, extras in missing.items() if extras} == {}, "make lock"
    assert lock != "dev" or "coverage" in required, "pytest-cov requires coverage[toml]: is it still so?"


def write_newer_release(folder: Path, name: str, extras: set[str]) -> None:
    """Write a wheel of a release far newer than any pin, that holds nothing but its metadata."""
    stem = f"{name.replace('-', '_')}-9999.0"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999.0\n" + "".join(
        f"Provides-Extra: {extra}\n" for extra in sorted(extras)
    )
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", metadata)
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture(scope="module")
def newer_releases(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package index of a later day: a newer release of every package that is required with an extra."""
    folder = tmp_path_factory.mktemp("later")
    extras: dict[str, set[str]] = {}
    for lock in LOCKS:
        locked = requirements(root / "locks" / f"{lock}.txt")
        direct = {name: set(requirement.extras) for name, (requirement, _) in locked.items() if requirement.extras}
        for name, found in [*direct.items(), *required_extras(locked).items()]:
            extras.setdefault(name, set()).update(found)
    for name, found in extras.items():
        write_newer_release(folder, name, found)
    assert {"coverage", "cyclonedx-python-lib", "tensorflow", "pylibjpeg"} <= set(extras)
    return folder


@pytest.fixture(scope="module")
def pip_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A virtual environment with this release of pip; skips where there is no package index."""
    made: dict[str, Path] = {}

    def find(version: str) -> Path:
        if version not in made:
            environment = tmp_path_factory.mktemp("pip") / version
            subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
            python = environment / "bin" / "python"
            done = run_pip(python, "install", f"pip=={version}")
            if done.returncode and os.environ.get("CXR_REQUIRE_PEERS") != "1":
                pytest.skip("the package index can't be reached")
            assert done.returncode == 0, done.stderr[-3000:]
            made[version] = python
        return made[version]

    yield find


def run_pip(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check", "--quiet"]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=1200)


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("pip", PIPS)
@pytest.mark.parametrize("lock", LOCKS)
def test_locks_install_when_newer_releases_exist(
    root: Path, pip_of: Callable[[str], Path], newer_releases: Path, lock: str, pip: str
) -> None:
    """Every file is resolved, downloaded and checked against its hash; only the unpacking is left out."""
    done = run_pip(
        pip_of(pip),
        *("install", "--dry-run", "--ignore-installed", "--require-hashes"),
        *("--find-links", newer_releases, "--requirement", root / "locks" / f"{lock}.txt"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
