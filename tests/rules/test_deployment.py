"""Containers, as far as they can be checked without an engine.

The last test does what the Dockerfile's stage `listener` does, in a virtual environment.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from pydicom.dataset import Dataset
from pynetdicom import AE

from config.settings import load_settings

TARGETS = {"listener": "locks/listener.txt", "worker": "locks/worker.txt", "worker-gpu": "locks/gpu.txt"}


@dataclass
class Stage:
    """One stage of the Dockerfile: its instructions as (word, arguments)."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [arguments for found, arguments in self.steps if found == word]


def read_dockerfile(path: Path) -> dict[str, Stage]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, arguments = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = arguments.partition(" AS ")
            current = stages[name] = Stage(name, base)
        else:
            assert current is not None
            current.steps.append((word, arguments))
    return stages


@pytest.fixture
def stages(root: Path) -> dict[str, Stage]:
    return read_dockerfile(root / "Dockerfile")


def lineage(stages: dict[str, Stage], name: str) -> Iterator[Stage]:
    """A stage and those it is built on, the nearest first."""
    stage: Stage | None = stages[name]
    while stage is not None:
        yield stage
        stage = stages.get(stage.base)


def copied(stages: dict[str, Stage]) -> Iterator[tuple[Stage, str]]:
    """Every source that comes from the checkout."""
    for stage in stages.values():
        for arguments in stage.all("COPY"):
            words = [word for word in shlex.split(arguments) if not word.startswith("--")]
            if "--from=" not in arguments:
                yield from ((stage, source.rstrip("/")) for source in words[:-1])


def test_targets_are_there_and_each_has_its_lock(stages: dict[str, Stage]) -> None:
    for target, lock in TARGETS.items():
        assert [source for stage, source in copied(stages) if stage.name == target] == [lock]
        (install, wheel) = stages[target].all("RUN")
        assert "pip install" in install
        assert "--require-hashes" in install
        assert "--no-deps" in wheel
        assert ".whl" in wheel


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_runs_as_root(stages: dict[str, Stage], target: str) -> None:
    users = [user for stage in lineage(stages, target) for user in stage.all("USER")]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0]), "a number, so that a cluster can see that it is not root's"
    words = [word for word, _ in stages[target].steps]
    assert words.index("USER") > max(number for number, word in enumerate(words) if word in ("RUN", "COPY"))


@pytest.mark.parametrize("target", TARGETS)
def test_its_health_is_asked_of_the_role_that_it_runs(stages: dict[str, Stage], target: str) -> None:
    (check,), (command,) = stages[target].all("HEALTHCHECK"), stages[target].all("CMD")
    words = json.loads(check[check.index("[") :])
    assert [*words[:2], *json.loads(command)] == ["cxr", "health", words[2]]


def test_the_wheel_is_installed_and_no_source(stages: dict[str, Stage]) -> None:
    from_checkout = {(stage.name, source) for stage, source in copied(stages)}
    assert {source for name, source in from_checkout if name != "wheel"} == set(TARGETS.values())
    for target in TARGETS:
        assert stages[target].all("COPY")[1].startswith("--from=wheel /wheel/*.whl ")


def test_packages_of_the_wheel_are_copied(stages: dict[str, Stage], root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    packages = {*wheel["packages"], *wheel.get("force-include", {})}
    sources = {source for stage, source in copied(stages) if stage.name == "wheel"}
    assert sources == packages | {"pyproject.toml", project["project"]["readme"], "LICENSE", "locks/build.txt"}


def test_nothing_is_fetched_from_elsewhere(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        assert stage.all("ADD") == []
        assert not [
            step for _, step in stage.steps if re.search(r"https?://|--index-url|--trusted-host|curl|wget", step)
        ]
        assert stage.base in stages or re.fullmatch(r"python:3\.1[1-3]-slim-\w+", stage.base)


def test_flat_names_can_not_be_shadowed(stages: dict[str, Stage]) -> None:
    for target in TARGETS:
        environment = " ".join(each for stage in lineage(stages, target) for each in stage.all("ENV"))
        assert "PYTHONSAFEPATH=1" in environment.split()


def is_ignored(path: str, patterns: list[str]) -> bool:
    """What .dockerignore says of a path: the last pattern that matches it, or one of its folders, decides."""
    ignored = False
    parts = PurePosixPath(path).parts
    for pattern in patterns:
        negated, wanted = pattern.startswith("!"), pattern.lstrip("!")
        prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        places = parts if wanted.startswith("**/") else prefixes
        if any(fnmatch.fnmatch(place, wanted.removeprefix("**/")) for place in places):
            ignored = not negated
    return ignored


def test_sources_exist_are_tracked_and_pass_the_ignore_file(stages: dict[str, Stage], root: Path) -> None:
    patterns = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    tracked = subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    for _, source in copied(stages):
        assert (root / source).exists(), source
        files = [name for name in tracked if name == source or name.startswith(f"{source}/")]
        assert files, f"git does not have {source}"
        assert [name for name in files if is_ignored(name, patterns)] == []
    for secret in ("var/audit.sqlite", "var.keys/audit.key", "cxr.toml", ".git/config", "app/__pycache__/cli.pyc"):
        assert is_ignored(secret, patterns), secret


@pytest.fixture
def compose(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((root / "compose.yaml").read_text())
    return content


def test_compose_runs_our_targets_hardened(compose: dict[str, Any], stages: dict[str, Stage]) -> None:
    ours = {name: service for name, service in compose["services"].items() if "build" in service}
    assert set(ours) == set(TARGETS)
    for name, service in ours.items():
        assert service["build"] == {"context": ".", "target": name}
        assert service["build"]["target"] in stages
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service
        assert "ports" not in service, "only the PACS needs the listener's port"
        assert service["stop_grace_period"] == ("30s" if name == "listener" else "90s")


def test_what_compose_mounts_is_declared_and_there(
    compose: dict[str, Any], root: Path, stages: dict[str, Stage]
) -> None:
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source, _, *mode = volume.split(":")
            if source.startswith("."):
                assert (root / source).is_file(), source
                assert mode == ["ro"]
            else:
                assert source in compose["volumes"]
        assert set(service["networks"]) <= set(compose["networks"])
    # The service writes nowhere but into its volumes and /tmp.
    declared = json.loads(stages["base"].all("VOLUME")[0])
    for name in TARGETS:
        mounted = {volume.split(":")[1] for volume in compose["services"][name]["volumes"]}
        assert set(declared) <= mounted


def test_the_gpu_is_reserved_for_the_gpu_worker_alone(compose: dict[str, Any]) -> None:
    def devices(service: dict[str, Any]) -> list[Any]:
        found: list[Any] = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        return found

    services = compose["services"]
    assert [name for name, service in services.items() if devices(service)] == ["worker-gpu"]
    assert devices(services["worker-gpu"]) == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert "profiles" not in services["worker"]


def test_settings_of_the_containers_load(compose: dict[str, Any], root: Path, stages: dict[str, Stage]) -> None:
    """With the image's environment over the mounted file, as in a container."""
    image = dict(word.split("=", 1) for line in stages["base"].all("ENV") for word in shlex.split(line))
    for name in TARGETS:
        service = compose["services"][name]
        (mounted,) = (volume for volume in service["volumes"] if volume.startswith("./"))
        source, target, _ = mounted.split(":")
        assert service["environment"]["CXR_CONFIG"] == target
        settings = load_settings(root / source, environ=image)
        declared = [Path(folder) for folder in json.loads(stages["base"].all("VOLUME")[0])]
        assert settings.data_dir in declared
        assert settings.audit_key_path.parent in declared
        assert settings.audit_key_path.parent != settings.data_dir
        assert stages["listener"].all("EXPOSE") == [str(settings.listener.port)]


def test_no_subnet_is_fixed_and_only_loopback_is_published(compose: dict[str, Any], root: Path) -> None:
    """A fixed subnet collides where a site uses it; without one any container of the network may send."""
    assert all(not (network or {}).get("ipam") for network in compose["networks"].values())
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    settings = load_settings(root / "docs" / "orthanc" / "cxr.toml", environ={})
    assert {peer.network for peer in settings.peers} == {"0.0.0.0/0"}


def test_the_upload_page_of_compose_asks_for_no_password(
    root: Path,
    tmp_path: Path,
    require_peer: Callable[[str], str],
    free_port: Callable[[], int],
    wait_for: Callable[..., Any],
) -> None:
    """Its configuration as it is mounted, with other folders and ports, in a real Orthanc."""
    port = free_port()
    configuration = json.loads((root / "docs" / "orthanc" / "orthanc.json").read_text())
    configuration |= {"StorageDirectory": str(tmp_path), "IndexDirectory": str(tmp_path), "LuaScripts": []}
    configuration |= {"HttpPort": port, "DicomPort": free_port()}
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))

    def page() -> int | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/app/explorer.html", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    process = subprocess.Popen([require_peer("Orthanc"), str(tmp_path / "orthanc.json")], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: page() is not None, "Orthanc answers", 60)
        assert page() == 200
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def image(stages: dict[str, Stage], root: Path, tmp_path: Path) -> Path:
    """The stage `listener` as a virtual environment; skips where there is no package index."""
    environment = tmp_path / "image"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
    wheels = tmp_path / "wheel"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, root],
        check=True,
        capture_output=True,
        timeout=300,
    )
    places = {"/tmp/lock.txt": str(root / TARGETS["listener"]), "/tmp/": f"{wheels}/"}
    for step in stages["listener"].all("RUN"):
        command = re.sub(r"/tmp/(?:lock\.txt)?", lambda found: places[found[0]], step)
        done = subprocess.run(
            ["bash", "-euc", command.replace("pip ", f"{environment}/bin/python -m pip ", 1)],
            capture_output=True,
            text=True,
            timeout=900,
        )
        said = done.stdout + done.stderr
        is_away = re.search(r"ConnectionError|NewConnectionError|Could not find a version|retry", said)
        if done.returncode and is_away and os.environ.get("CXR_REQUIRE_PEERS") != "1":
            pytest.skip("the package index can't be reached")
        assert done.returncode == 0, said[-3000:]
    return environment


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_listener_image_receives(
    image: Path,
    stages: dict[str, Stage],
    tmp_path: Path,
    free_port: Callable[[], int],
    synthetic_xray: Callable[..., Dataset],
    wait_for: Callable[..., Any],
) -> None:
    """Entrypoint and command of the image, from an empty folder that holds files named like our packages."""
    folder, port = tmp_path / "data", free_port()
    folder.mkdir()
    for name in ("db.py", "config.py", "app.py"):
        (folder / name).write_text("raise SystemExit('shadowed')\n")
    given = dict(word.split("=", 1) for line in stages["base"].all("ENV") for word in shlex.split(line))
    given |= {"CXR_DATA_DIR": str(folder / "cxr"), "CXR_AUDIT__KEY_FILE": str(tmp_path / "keys" / "audit.key")}
    given |= {"CXR_LISTENER__PORT": str(port), "CXR_LISTENER__MIN_FREE_MIB": "1"}
    (entry,) = json.loads(stages["base"].all("ENTRYPOINT")[0])
    command = [str(image / "bin" / entry), *json.loads(stages["listener"].all("CMD")[0])]
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.defpath} | given,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )

    def accepts() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(lambda: accepts() or process.poll() is not None, "the image's listener accepts", 60)
        assert process.poll() is None, log.read_text()[-3000:]
        xray = synthetic_xray()
        entity = AE(ae_title="TESTS")
        entity.add_requested_context("1.2.840.10008.1.1")
        entity.add_requested_context(xray.SOPClassUID, xray.file_meta.TransferSyntaxUID)
        association = entity.associate("127.0.0.1", port, ae_title="CXR")
        assert association.is_established
        assert association.send_c_echo().Status == 0x0000
        assert association.send_c_store(xray).Status == 0x0000
        association.release()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (folder / "cxr" / "audit.sqlite").exists()
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()][-1] == "stopped"
