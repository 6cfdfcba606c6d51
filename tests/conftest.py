"""What every test may use: settings of its own, free ports, synthetic X-rays, real peers."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxr.domain import ImageHeader, JobState, PackageStatus, Score, ScoredImage, View, ViewDecision
from cxr.labels import FINDINGS
from cxr.package import AcceptedGate, PackageClass, PackageManifest, Provenance
from cxr.pixels.recipe import DEFAULT_RECIPE
from db.engine import Database, open_database
from db.schema.records import Receipt, ReportRecord

if TYPE_CHECKING:
    from cxr.package import ModelPackage

# A landing must not depend on a draw: CI replays one fixed set of examples, everybody else explores.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test never sees the settings of the machine it runs on."""
    for name in [name for name in os.environ if name.startswith("CXR_") and name != "CXR_REQUIRE_PEERS"]:
        monkeypatch.delenv(name)


class _Unexpected(logging.Handler):
    """Keeps the records of faults that the product caught without knowing them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        event = record.msg.get("event") if isinstance(record.msg, dict) else None
        if event == "unexpected":
            error = record.exc_info[1] if record.exc_info else None
            self.records.append(f"{record.name}: {error!r}")


@pytest.fixture(autouse=True)
def unexpected_faults() -> Iterator[list[str]]:
    """Fail a test in whose run the product caught a fault that it does not know; a test that means to clears the list.

    The loops of the service catch every exception, also those of a test that calls them wrongly.
    """
    handler = _Unexpected()
    logging.getLogger().addHandler(handler)
    yield handler.records
    logging.getLogger().removeHandler(handler)
    assert handler.records == []


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real radiographs and DICOM files beside the checkout; absent on a user's machine."""
    if not SHARED.is_dir():
        pytest.skip("the shared radiographs (../shared/data) are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def require_peer() -> Callable[[str], str]:
    """Find a peer's binary; missing, it is a skip, or with CXR_REQUIRE_PEERS=1 a failure."""

    def find(binary: str) -> str:
        path = shutil.which(binary) or shutil.which(binary, path="/usr/sbin:/usr/local/sbin")
        if path is None:
            if os.environ.get("CXR_REQUIRE_PEERS") == "1":
                pytest.fail(f"{binary} is not installed and CXR_REQUIRE_PEERS=1")
            pytest.skip(f"{binary} is not installed (make peers)")
        return path

    return find


@pytest.fixture(scope="session")
def bad_disk_library(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build what lets the system calls of a process fail that preloads it: tests/data/bad_disk.c."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CXR_REQUIRE_PEERS") == "1":
            pytest.fail("there is no C compiler to build the failing disk with")
        pytest.skip("there is no C compiler to build the failing disk with")
    library = tmp_path_factory.mktemp("bad_disk") / "bad_disk.so"
    source = root / "tests" / "data" / "bad_disk.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


def _free_port() -> int:
    """A port that nobody has, outside of those that the system gives to outgoing connections meanwhile."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    return _free_port


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """Poll until a condition is truthy and return it; fail with its description after a bound."""

    def wait(condition: Callable[[], Any], what: str, timeout_s: float = 90.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.05)
        pytest.fail(f"not within {timeout_s} s: {what}")

    return wait


@pytest.fixture
def synthetic_xray() -> Callable[..., Dataset]:
    """Make a small CR chest radiograph; keyword arguments override or (None) delete elements."""

    def make(*, rows: int = 64, columns: int = 48, seed: int = 0, **elements: Any) -> Dataset:
        pixels = np.random.default_rng(seed).integers(0, 4096, (rows, columns), dtype=np.uint16)
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=["instance", str(seed)])
        dataset.StudyDate = "20200401"
        dataset.StudyTime = "101500"
        dataset.AccessionNumber = f"ACC{seed}"
        dataset.Modality = "CR"
        dataset.Manufacturer = "Synthetic"
        dataset.ReferringPhysicianName = ""
        dataset.PatientName = "Synthetic^Xray"
        dataset.PatientID = f"SYN{seed}"
        dataset.PatientBirthDate = "19700101"
        dataset.PatientSex = "O"
        dataset.BodyPartExamined = "CHEST"
        dataset.ViewPosition = "PA"
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", str(seed)])
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", str(seed)])
        dataset.StudyID = "1"
        dataset.SeriesNumber = "1"
        dataset.InstanceNumber = "1"
        dataset.PatientOrientation = ["L", "F"]
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = rows, columns
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = pixels.tobytes()
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        return dataset

    return make


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelPackage]:
    """Make an untrained package with the tiny network: 64 x 64 pixels, binary unless told otherwise.

    Packages are shared by the tests of a session; one that changes its files copies the folder first.
    """
    made: dict[tuple[object, ...], ModelPackage] = {}

    def make(*classes: str, activation: str = "sigmoid", size: int = 64, seed: int = 0) -> ModelPackage:
        key = (classes, activation, size, seed)
        if key not in made:
            from cxr.pixels.recipe import PixelRecipe
            from training.packaging.untrained import build_untrained

            made[key] = build_untrained(
                tmp_path_factory.mktemp("package") / "package",
                now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
                seed=seed,
                architecture="tiny",
                classes=classes or ("covid19",),
                activation=activation,  # type: ignore[arg-type]
                recipe=PixelRecipe(size=size),
            )
        return made[key]

    return make


@pytest.fixture(scope="session")
def mask_lungs() -> Callable[..., ModelPackage]:
    """Copy a package with a lung mask of this graph; by default one that calls lung what is dark.

    ``changes`` are of the component.
    """

    def make(
        base: ModelPackage,
        folder: Path,
        graph: Any = None,
        *,
        status: PackageStatus = PackageStatus.EVALUATED,
        **changes: Any,
    ) -> ModelPackage:
        from cxr.package import MODEL_CARD_FILE, MODEL_FILE, write_package
        from cxr.package.lung_mask import COMPONENT, FILE, MaskSettings
        from training.networks import save_network

        folder.mkdir(parents=True, exist_ok=True)
        written = folder / FILE
        save_network(_dark_places(32) if graph is None else graph, written, now=NOON)
        component = {
            "source": "model",
            "file": FILE,
            "sha256": hashlib.sha256(written.read_bytes()).hexdigest(),
            "settings": MaskSettings(size=32).model_dump(mode="json"),
        }
        manifest = base.manifest.model_copy(
            update={"components": {COMPONENT: component | changes}, "status": status, "files": {}}
        )
        contents: dict[str, bytes | Path] = {name: base.folder / name for name in (MODEL_FILE, MODEL_CARD_FILE)}
        return write_package(folder / "package", manifest, contents | {FILE: written})

    return make


def _dark_places(size: int) -> Any:
    """A graph of one convolution that calls lung what is darker than the middle grey."""
    import keras

    image = keras.Input((size, size, 1))
    layer = keras.layers.Conv2D(1, 1, activation="sigmoid")
    graph = keras.Model(image, layer(image))
    layer.set_weights([np.full((1, 1, 1, 1), -40, np.float32), np.array([20], np.float32)])
    return graph


@pytest.fixture(scope="session")
def view_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelPackage]:
    """Make a view model that sees the same in every picture."""
    made: dict[tuple[object, ...], ModelPackage] = {}

    def make(seen: str, *, laterals: int = 18) -> ModelPackage:
        if (seen, laterals) not in made:
            from cxr.package import write_package
            from cxr.package.view_model import CLASSES, ViewComponent
            from training.networks import save_network
            from training.view_model.network import RECIPE, build
            from training.view_model.train import CODES

            folder = tmp_path_factory.mktemp("view")
            network = build()
            layer = network.get_layer("logit")
            bias = [9.0 if name == seen else 0.0 for name in CLASSES]
            layer.set_weights([np.zeros_like(layer.get_weights()[0]), np.array(bias)])
            save_network(network, folder / "model.keras", now=NOON)
            component = ViewComponent(laterals=laterals, frontals=1, not_a_chest=1)
            manifest = PackageManifest(
                name="view",
                version="1.0.0",
                status=PackageStatus.EVALUATED,
                classes=tuple(PackageClass(finding=name, code=code) for name, code in zip(CLASSES, CODES, strict=True)),
                activation="softmax",
                recipe=RECIPE,
                components={"view": component.model_dump(mode="json")},
                provenance=Provenance(training_data="none", architecture="view", created=NOON),
            )
            contents = {"model.keras": folder / "model.keras", "MODEL_CARD.md": b"# view\n"}
            made[(seen, laterals)] = write_package(folder / "package", manifest, contents)
        return made[(seen, laterals)]

    return make


@pytest.fixture
def model_manifest() -> Callable[..., PackageManifest]:
    """Make a model package's manifest with these findings, without files."""

    def make(
        *findings: str, threshold: float | None = None, status: PackageStatus = PackageStatus.EVALUATED, **fields: Any
    ) -> PackageManifest:
        created = datetime(2024, 1, 1, tzinfo=UTC)
        gate = AcceptedGate(name="external", figure="0.6 < 0.8", reason="for the tests", accepted_at=created)
        names = findings or ("covid19",)
        values: dict[str, Any] = {
            "name": "test-net",
            "version": "1.2.0",
            "status": status,
            "accepted_gates": (gate,) if status is PackageStatus.DEMONSTRATION else (),
            "classes": tuple(
                PackageClass(finding=name, code=FINDINGS[name].code, threshold=threshold) for name in names
            ),
            "activation": "sigmoid" if len(names) == 1 else "softmax",
            "recipe": DEFAULT_RECIPE,
            "provenance": Provenance(training_data="none", architecture="none", created=created),
            "files": {"model.keras": "ab" * 32, "MODEL_CARD.md": "cd" * 32},
        }
        return PackageManifest(**values | fields)

    return make


@pytest.fixture
def scored_by() -> Callable[..., ScoredImage]:
    """Make what a package says about an image: one score for each of its classes, in their order."""

    def make(manifest: PackageManifest, *values: float, warnings: tuple[str, ...] = (), **fields: Any) -> ScoredImage:
        given = values or tuple(round(0.8731 / (place + 1), 4) for place in range(len(manifest.classes)))
        image = ScoredImage(
            scores=tuple(
                Score(finding=entry.finding, score=value, threshold=entry.threshold)
                for entry, value in zip(manifest.classes, given, strict=True)
            ),
            model_name=manifest.name,
            model_version=manifest.version,
            fingerprint="0123456789abcdef" * 4,
            status=manifest.status,
            scored_at=datetime(2024, 5, 1, 9, 59, 58, tzinfo=UTC),
            device="cpu",
            warnings=warnings,
        )
        return replace(image, **fields)

    return make


NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def noon() -> datetime:
    """A fixed time to start from; tests move on from it by timedelta."""
    return NOON


@pytest.fixture
def open_audit(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    """Open the audit database of this test; each call is a further opener of the same file."""
    opened: list[Database] = []

    def make(folder: Path = tmp_path, *, create: bool = True) -> Database:
        database = open_database(folder / "data" / "audit.sqlite", folder / "keys" / "audit.key", create=create)
        opened.append(database)
        return database

    yield make
    for database in opened:
        database.dispose()


@pytest.fixture
def audit_database(open_audit: Callable[..., Database]) -> Database:
    return open_audit()


@pytest.fixture(scope="session")
def make_receipt() -> Callable[..., Receipt]:
    """Make a receipt; the seed gives it an identity, keyword arguments override its fields."""

    def make(seed: int = 0, *, header: dict[str, Any] | None = None, **fields: Any) -> Receipt:
        identity = {
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
            "sop_instance_uid": f"1.2.3.{seed}",
            "study_instance_uid": f"1.2.4.{seed}",
            "series_instance_uid": f"1.2.5.{seed}",
            "accession_number": f"ACC{seed}",
            "patient_id": f"SYN{seed}",
            "identity_digest": f"{seed:064x}",
        }
        given = {
            "header": ImageHeader(**(identity | (header or {}))),
            "decision": ViewDecision(view=View.FRONTAL, is_chest=True, reason="frontal_by_view_position"),
            "initial_state": JobState.QUEUED,
            "reason": "frontal_by_view_position",
            "peer_ae_title": "MODALITY",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "size_bytes": 1000 + seed,
            "dataset_digest": f"{seed:063x}d",
            "pixel_digest": f"{seed:063x}e",
            "spool_name": f"{seed:032x}.dcm",
            "received_at": NOON,
        }
        return Receipt(**(given | fields))

    return make


@pytest.fixture(scope="session")
def make_scored() -> Callable[..., ScoredImage]:
    """Make a model's output for one image."""

    def make(**scores: float) -> ScoredImage:
        return ScoredImage(
            scores=tuple(Score(finding=name, score=score, threshold=0.5) for name, score in scores.items()),
            model_name="resnet50",
            model_version="1.0.0",
            fingerprint="ab" * 32,
            status=PackageStatus.EVALUATED,
            scored_at=NOON,
            device="cpu",
        )

    return make


@pytest.fixture(scope="session")
def make_report() -> Callable[..., ReportRecord]:
    """Make the record of a report that lies in the spool."""

    def make(seed: int = 0, **fields: Any) -> ReportRecord:
        given = {
            "kind": "sr",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
            "sop_instance_uid": f"2.25.{seed}1",
            "series_instance_uid": f"2.25.{seed}2",
            "spool_name": f"sr{seed:030x}.dcm",
            "content_digest": f"{seed:063x}f",
            "created_at": NOON,
        }
        return ReportRecord(**(given | fields))

    return make


@dataclass
class Orthanc:
    """A real Orthanc of this test's own, on free loopback ports, without authentication."""

    folder: Path
    http_port: int
    dicom_port: int
    ae_title: str = "ORTHANC"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def address(self) -> str:
        """As a destination's address in the settings."""
        return f"{self.ae_title}@127.0.0.1:{self.dicom_port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return json.load(response)

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            content: bytes = response.read()
            return content

    def post(self, path: str, body: bytes | dict[str, Any]) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data=data), timeout=30) as response:
            return json.load(response)

    def find(self, level: str, **query: str) -> list[dict[str, Any]]:
        """Expanded resources that match, e.g. find("Instance", SOPInstanceUID=uid)."""
        found: list[dict[str, Any]] = self.post("/tools/find", {"Level": level, "Query": query, "Expand": True})
        return found

    def start(self) -> None:
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    shutil.which("Orthanc", path=os.environ["PATH"] + ":/usr/sbin") or "Orthanc",
                    str(self.folder / "orthanc.json"),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                self.get("/system")
                return
            except urllib.error.HTTPError:  # it is up, and asks who we are
                return
            except OSError:
                time.sleep(0.1)
        pytest.fail("Orthanc did not start within 30 s")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
            self.process = None


@pytest.fixture
def orthanc_factory(tmp_path: Path, require_peer: Callable[[str], str]) -> Iterator[Callable[..., Orthanc]]:
    """Start Orthanc; keyword arguments are options of its configuration file."""
    require_peer("Orthanc")
    started: list[Orthanc] = []

    def start(**options: Any) -> Orthanc:
        folder = tmp_path / f"orthanc{len(started)}"
        folder.mkdir()
        peer = Orthanc(folder=folder, http_port=_free_port(), dicom_port=_free_port())
        configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": peer.http_port,
            "DicomPort": peer.dicom_port,
            "DicomAet": peer.ae_title,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageCompression": False,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowFind": True,
        } | options
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        started.append(peer)
        peer.start()
        return peer

    yield start
    for peer in started:
        if peer.process is not None:
            peer.process.kill()  # nothing of it is kept, and an orderly end takes three seconds
            peer.process.wait(timeout=30)


@pytest.fixture(scope="session")
def draw_cases() -> Callable[..., Path]:
    """Draw grey pictures, those with the finding with a brighter spot, and write their manifest; one patient each."""

    def draw(folder: Path, count: int = 48, *, side: int = 80, seed: int = 0, **columns: list[str]) -> Path:
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        rows = []
        for number in range(count):
            picture = random.integers(40, 120, (side, side - 10)).astype(np.uint8)
            is_positive = number % 2 == 1
            if is_positive:
                top, left = random.integers(side // 4, side // 2, 2)
                picture[top : top + side // 5, left : left + side // 5] += 90
            Image.fromarray(picture).save(folder / f"image{number}.png")
            label = "covid19" if is_positive else "normal"
            rows.append(
                {"image_id": f"drawn:{number}", "path": f"image{number}.png", "source": "drawn"}
                | {"patient_id": f"p{number}", "label": label}
                | {name: values[number] for name, values in columns.items()}
            )
        manifest = folder / "manifest.csv"
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return manifest

    return draw


@pytest.fixture
def orthanc(orthanc_factory: Callable[..., Orthanc]) -> Orthanc:
    return orthanc_factory()
