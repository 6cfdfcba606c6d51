"""The tables of the settings file: every setting, its default and its meaning.

``cxr config example`` and docs/settings.md are generated from these classes.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from cxr.domain import PixelView, UnknownView

Port = Annotated[int, Field(ge=1, le=65535)]
UNTRAINED_DEFAULT: Final = "untrained"
DefaultModel = Literal["covid19", "four-class", "untrained"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]

_BOUNDS: Final = ((0, 59), (0, 23), (1, 31), (1, 12))
_PART: Final = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/([1-9]\d*))?")
_DAYS: Final = re.compile(r"(?:\*|(?:mon|tue|wed|thu|fri|sat|sun)(?:-(?:mon|tue|wed|thu|fri|sat|sun))?)")


def _ae_title(value: str) -> str:
    """Check an AE title: 1 to 16 printable ASCII characters, no backslash (PS3.5 Table 6.2-1)."""
    stripped = value.strip()
    if not 1 <= len(stripped) <= 16 or "\\" in stripped or not stripped.isascii() or not stripped.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return stripped


def _network(value: str) -> str:
    """Check a network in CIDR notation, or one address."""
    return str(ipaddress.ip_network(value, strict=False))


def is_loopback(address: str) -> bool:
    """Whether an address, or the name localhost, is reached from this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _time_of_day(value: str) -> str:
    """Check a local time, HH:MM."""
    hours, _, minutes = value.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and int(hours) < 24 and int(minutes) < 60):
        raise ValueError('a time of day is written "HH:MM"')
    return value


def _check_url(address: str) -> None:
    """Check the URL of a DICOMweb service; it must contain no secret, because the address is printed."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a stow address is a URL that starts with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a stow address has no user in it: set username and password, or token")


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]


class Section(BaseModel):
    """One table of the settings file; an unknown key is a fault."""

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid", frozen=True)


class TlsSettings(Section):
    """DICOM TLS (PS3.15 Annex B) of the listener, on a separate port."""

    port: Port | None = Field(None, description="Port of the TLS listener; absent: no TLS.")
    certificate: Path | None = Field(None, description="PEM file with this service's certificate chain.")
    key: Path | None = Field(None, description="PEM file with its private key; readable by its owner only.")
    ca: Path | None = Field(
        None,
        description="PEM file of the CAs that issue peers' certificates; absent: peers need no certificate.",
    )
    required: bool = Field(False, description="Open the TLS port only: listener.port is not opened.")
    handshake_timeout_s: float = Field(10.0, gt=0, le=86400, description="Time limit of the TLS handshake.")

    @model_validator(mode="after")
    def _complete(self) -> TlsSettings:
        if self.required and self.port is None:
            raise ValueError("listener.tls.required needs listener.tls.port")
        if self.port is not None and (self.certificate is None or self.key is None):
            raise ValueError("TLS needs listener.tls.certificate and listener.tls.key")
        return self


class CommitmentSettings(Section):
    """Storage Commitment as SCP, on the listener's ports."""

    enabled: bool = Field(True, description="Accept requests; off: the presentation context is rejected.")
    keep_days: float = Field(
        30.0, gt=0, description="How long the service keeps a file after its commitment, also when space is short."
    )
    report_on: Literal["same", "new"] = Field(
        "same",
        description="Association of the report: same, that of the request, or a new one if it has ended; new, always a "
        "new one.",
    )


class ListenerSettings(Section):
    """The Storage SCP."""

    ae_title: AETitle = Field("CXR", description="Our AE title.")
    check_called_ae_title: bool = Field(True, description="Reject associations that call another AE title.")
    bind: str = Field("127.0.0.1", description="IP address to listen on; other than loopback it needs [[peers]].")
    port: Port = Field(11112, description="TCP port to listen on.")
    secondary_capture: bool = Field(False, description="Also accept Secondary Capture images.")
    accept_all_storage: bool = Field(
        False,
        description="Also accept every other storage class (answered with Success, recorded, not kept), for a PACS "
        "whose auto-route stops on a rejected presentation context.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of processes that receive on this port; more than one serves many simultaneous "
        "associations, and each counts its own.",
    )
    max_associations: int = Field(
        50, ge=1, le=1000, description="Largest number of simultaneous associations, per listening process."
    )
    max_pdu_bytes: int = Field(131072, ge=4096, le=4194304, description="Largest accepted PDU.")
    max_object_mib: int = Field(256, ge=1, le=4096, description="Largest accepted object.")
    min_free_mib: int = Field(1024, ge=0, description="With less free space every object is refused (0xA700).")
    acse_timeout_s: float = Field(10.0, gt=0, le=86400, description="Time limit for a peer's A-ASSOCIATE-RQ.")
    dimse_timeout_s: float = Field(30.0, gt=0, le=86400, description="How long a peer may be silent within a message.")
    message_timeout_s: float = Field(
        900.0, gt=0, le=86400, description="Time limit for one whole message, also while the peer keeps sending."
    )
    idle_timeout_s: float = Field(60.0, gt=0, le=86400, description="How long an association may be idle.")
    drain_timeout_s: float = Field(20.0, gt=0, le=86400, description="How long a stop waits for transfers in flight.")
    tls: TlsSettings = TlsSettings()
    commitment: CommitmentSettings = CommitmentSettings()


def _host_and_port(address: str, name: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f'accepted is "host:port" for {name}')
    return host.strip("[]"), int(port)


class PeerSettings(Section):
    """A peer that may send."""

    ae_title: AETitle = Field(description="Calling AE title.")
    network: Network = Field(description="Network of its address, in CIDR notation.")
    max_associations: int | None = Field(
        None,
        ge=1,
        description="Largest number of simultaneous associations from this entry, per listening process; absent: "
        "listener.max_associations.",
    )
    max_object_mib: int | None = Field(
        None, ge=1, description="Largest accepted object from this entry; absent: listener.max_object_mib."
    )
    commitment_reports_to: str | None = Field(
        None,
        description='"host:port" of the peer for Storage Commitment reports on our association; absent: that of the '
        "dicom destination with its AE title, if there is one.",
    )

    @model_validator(mode="after")
    def _check_report_address(self) -> PeerSettings:
        self.report_address()
        return self

    def report_address(self) -> tuple[str, int] | None:
        """Split ``commitment_reports_to``.

        Returns
        -------
        tuple[str, int] | None
            Host and port; None: there is none.

        Raises
        ------
        ValueError
            If it has another form.
        """
        return (
            None
            if self.commitment_reports_to is None
            else _host_and_port(self.commitment_reports_to, "commitment_reports_to")
        )


class DestinationSettings(Section):
    """A destination of reports."""

    name: Name = Field(description="Its name in commands, audit rows and logs; lower case, digits, - and _.")
    kind: Literal["dicom", "stow", "folder"] = Field(description="C-STORE, DICOMweb STOW-RS, or a folder.")
    address: str = Field(
        description='dicom: "AET@host:port"; stow: the URL of the DICOMweb service; folder: a directory that exists.'
    )
    from_peers: tuple[AETitle, ...] = Field(
        (),
        description="Send it only results of images from these AE titles, sent first or again; empty: results of all "
        "images but those from the dicom destination's own AE title. For a PACS that is to receive the results of its "
        "own images, enter its AE title.",
    )
    calling_ae_title: AETitle | None = Field(
        None, description="Our AE title for this destination; absent: listener.ae_title."
    )
    verify: Literal["auto", "commitment", "find", "none"] = Field(
        "auto",
        description="How arrival is verified: Storage Commitment, C-FIND (stow: QIDO-RS), auto (the first that works), "
        "or not at all.",
    )
    verify_after_s: float = Field(2.0, ge=0, description="Wait before the first verification.")
    commitment_listen: str | None = Field(
        None,
        description='dicom: "host:port" on which we accept associations of the peer for Storage Commitment reports; '
        "absent: reports are accepted on our own associations only.",
    )
    timeout_s: float = Field(30.0, gt=0, description="Time limit for each response of the peer.")
    tls: bool = Field(False, description="dicom: use TLS.")
    tls_ca: Path | None = Field(None, description="PEM file of the CAs that issue the peer's certificate.")
    tls_certificate: Path | None = Field(
        None, description="dicom: PEM file with our certificate, if the peer requires one."
    )
    tls_key: Path | None = Field(None, description="dicom: PEM file with its private key.")
    username: str | None = Field(None, description="stow: HTTP Basic user name.")
    password: SecretStr | None = Field(
        None, description="stow: HTTP Basic password; preferably set by the environment."
    )
    token: SecretStr | None = Field(None, description="stow: bearer token; preferably set by the environment.")

    @model_validator(mode="after")
    def _check_kind(self) -> DestinationSettings:
        if self.kind == "dicom":
            self.dicom_address()
        elif self.kind == "stow":
            _check_url(self.address)
        if self.kind != "stow" and (self.username or self.password or self.token):
            raise ValueError("username, password and token are accepted for kind stow only")
        if self.token is not None and (self.username or self.password):
            raise ValueError("accepted is either token, or username and password")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        self.commitment_address()
        return self

    def commitment_address(self) -> tuple[str, int] | None:
        """Split ``commitment_listen``.

        Returns
        -------
        tuple[str, int] | None
            Host and port; None: there is none.

        Raises
        ------
        ValueError
            If it has another form.
        """
        return None if self.commitment_listen is None else _host_and_port(self.commitment_listen, "commitment_listen")

    def dicom_address(self) -> tuple[str, str, int]:
        """Split ``AET@host:port``.

        Returns
        -------
        tuple[str, str, int]
            AE title, host, port.

        Raises
        ------
        ValueError
            If the address has another form.
        """
        ae_title, at, rest = self.address.partition("@")
        host, colon, port = rest.rpartition(":")
        if not (at and colon and host and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError('accepted is "AET@host:port" for a dicom address')
        return _ae_title(ae_title), host.strip("[]"), int(port)


class ViewSettings(Section):
    """The view decision."""

    unknown: UnknownView = Field(
        UnknownView.HOLD,
        description="An image without a view in its header: hold (until `cxr jobs release`), score, reject, or model "
        "(the view model decides; it must have been trained on 200 laterals or more).",
    )
    pixels: PixelView = Field(
        PixelView.HOLD,
        description="An image that the view model does not classify as a frontal chest radiograph: hold (until "
        "`cxr jobs release`), flag (a warning beside its scores), or off.",
    )
    model: Path | None = Field(
        None, description="Folder of a view model (`cxr train view`); absent: the one of this installation."
    )


class WorkerSettings(Section):
    """Scoring."""

    device: str = Field("auto", pattern=r"^(auto|cpu|gpu:\d+)$", description="auto, cpu, or gpu:N.")
    runtime: Literal["tensorflow", "openvino"] = Field(
        "tensorflow", description="Runtime of the model: tensorflow, or openvino (CPU only, and faster)."
    )
    default_model: DefaultModel = Field(
        "covid19",
        description="Model in service until a package is promoted: covid19 or four-class, the research models of the "
        "project (DEMONSTRATION MODEL), or untrained, random weights.",
    )
    batch_size: int = Field(
        0,
        ge=0,
        le=256,
        description="Largest batch of images; 0: 32 on a GPU, on a CPU one image per available core, between 8 and 32.",
    )
    decode_processes: int = Field(
        0, ge=0, le=64, description="Processes that decode pixels; 0: one per available core, at most 8."
    )
    decode_timeout_s: float = Field(60.0, gt=0, description="Time limit to decode one image.")
    max_megapixels: int = Field(64, ge=1, le=1024, description="Largest image to decode, Rows x Columns.")
    poll_s: float = Field(0.1, gt=0, description="Interval at which an idle worker polls for jobs.")
    lease_s: float = Field(120.0, ge=5, description="Lease of a job; without renewal another worker claims it.")
    max_attempts: int = Field(3, ge=1, description="Attempts before a job is failed.")
    retry_s: float = Field(30.0, ge=0, description="Wait before the second attempt; doubles with each.")
    shadow_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Time limit of a shadow model (`cxr model shadow`) for a batch; the next batch waits for it.",
    )


class GateSettings(Section):
    """Minimum figures of a model package for promotion; `--accept-gate` overrides one by name."""

    auc_low: float = Field(0.60, ge=0, le=1, description="Smallest lower bound of the AUC's confidence interval.")
    ece: float = Field(0.10, ge=0, le=1, description="Largest expected calibration error.")
    subgroup_auc: float = Field(0.55, ge=0, le=1, description="Smallest AUC of the worst subgroup.")
    blanked_auc: float = Field(
        0.60,
        ge=0,
        le=1,
        description="Largest AUC on images with blanked lungs, unless its confidence interval contains 0.5.",
    )


class ReportSettings(Section):
    """The DICOM SR and its companions."""

    title: Literal["research", "imaging_measurement_report"] = Field(
        "research",
        description="Root title: our private research title, or (126000, DCM) for IHE AIR consumers.",
    )
    saliency: bool = Field(
        False, description="Also send the evidence map as Secondary Capture, with the notice burned in."
    )
    deliver_untrained: bool = Field(False, description="Also deliver results of an untrained package.")


class DeliverySettings(Section):
    """Retries of deliveries."""

    retry_first_s: float = Field(10.0, gt=0, description="Wait before the second attempt; doubles with each.")
    retry_max_s: float = Field(3600.0, gt=0, description="Longest wait between two attempts.")
    give_up_after_h: float = Field(168.0, gt=0, description="Time limit after which a delivery is dead until requeued.")
    lease_s: float = Field(120.0, ge=5, description="Lease of a delivery; without renewal another sender claims it.")


class RetentionSettings(Section):
    """How long pixels and reports are kept; the audit rows stay."""

    pixels_days: float = Field(30.0, ge=0, description="Received objects of finished images; 0: within ten minutes.")
    results_days: float = Field(365.0, ge=0, description="SR files that were delivered; 0: within ten minutes.")
    quarantine_days: float = Field(
        30.0,
        ge=1,
        description="Files without a row, counted from the day they were moved to the quarantine.",
    )
    low_space_mib: int = Field(
        4096,
        ge=0,
        description="With less free space the oldest finished pixels are deleted, whatever their age.",
    )


class AuditSettings(Section):
    """The audit database."""

    key_file: Path | None = Field(
        None,
        description="Key of the event chain, created at first start; absent: audit.key in a folder beside data_dir. "
        "Keep a copy apart from the database.",
    )
    identifiers: Literal["full", "pseudonym", "none"] = Field(
        "full",
        description="Form of identifiers of objects received from now on: as received, as keyed pseudonyms, or none "
        "but one keyed value to recognise a resend.",
    )
    pseudonym_key_file: Path | None = Field(
        None,
        description="Key of pseudonyms, created when first needed; absent: pseudonym.key beside the key of the event "
        "chain. Keep a copy apart from the database.",
    )
    snapshot_every_s: float = Field(60.0, gt=0, description="Interval to refresh audit-read.sqlite, if changed.")
    backup_at: TimeOfDay = Field("02:30", description="Time of the nightly backup, local.")
    backup_keep: int = Field(7, ge=1, description="Number of nightly backups to keep.")


class LogSettings(Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is written.")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json.")


class MetricsSettings(Section):
    """Prometheus metrics, served without a password; no label names a peer or a patient."""

    bind: str = Field(
        "127.0.0.1", description="IP address to serve them on; other than loopback, other machines can read them."
    )
    listener_port: Port | None = Field(
        None,
        description="Port of the listener's metrics; further listening processes use the next ports; absent: not "
        "served.",
    )
    worker_port: Port | None = Field(None, description="Port of the worker's metrics; absent: not served.")


def _cron(value: str) -> str:
    """Check a cron expression; days of the week are names, because programs differ in their numbers."""
    *numbers, days = value.lower().split() or [""]
    if len(numbers) != len(_BOUNDS):
        raise ValueError("a cron expression has five fields: minute, hour, day, month, day of the week")
    for field, (low, high) in zip(numbers, _BOUNDS, strict=True):
        for part in field.split(","):
            match = _PART.fullmatch(part)
            if match is None or not all(low <= int(bound) <= high for bound in match.groups()[:2] if bound):
                raise ValueError(f"{part!r} is no number from {low} to {high}, range (1-5), step (*/2) or *")
    if not all(_DAYS.fullmatch(part) for part in days.split(",")):
        raise ValueError("days of the week are written mon, tue, wed, thu, fri, sat, sun, e.g. sun or mon-fri")
    return value.lower()


def _time_zone(value: str) -> str:
    """Check the name of a time zone."""
    try:
        ZoneInfo(value)
    except (ValueError, OSError, LookupError) as error:
        raise ValueError("a time zone is a name such as UTC or Europe/Berlin") from error
    return value


class RebuildSettings(Section):
    """The scheduled rebuild of the model on new labelled images, up to a report before promotion."""

    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        None, description='Schedule as "minute hour day month weekday", e.g. "0 3 * * sun"; absent: by hand only.'
    )
    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field(
        "UTC",
        description="Time zone of cron; a time that daylight saving repeats counts once, a skipped one is due after "
        "the change.",
    )
    labels: Path | None = Field(None, description="CSV of test results, joined with the received images.")
    columns: tuple[str, ...] = Field((), description="Our name of a column and its name in labels: result=diagnosis.")
    words: tuple[str, ...] = Field((), description="A class and its value in labels: covid19=detected.")
    positive: str = Field("covid19", description="Class of positive labels.")
    date_format: str = Field("", description="Format of dates in labels, e.g. %d/%m/%Y; empty: ISO 8601 or YYYYMMDD.")
    days: int = Field(2, ge=0, description="Largest difference between the dates of label and image.")
    images: Path | None = Field(None, description="Folder of DICOM files; absent: those in the spool.")
    manifest: Path | None = Field(None, description="A manifest of `cxr train index` instead of labels and images.")
    recipe: str = Field("default-finetune", description="A training recipe's name, or a TOML file.")
    overrides: tuple[str, ...] = Field((), description="Keys of the recipe and their values: compute.devices=cpu.")
    start: Path | None = Field(None, description="Folder of the finished run with the initial weights.")
    runs_dir: Path | None = Field(None, description="Folder of runs; absent: runs in data_dir.")
    min_new_images: int = Field(100, ge=1, description="Smallest number of new labelled images for a rebuild.")
    compare_with_active: bool = Field(True, description="Also score the test images with the active package.")
    processes: int = Field(1, ge=1, le=64, description="Processes that prepare images.")
    nice: int = Field(15, ge=0, le=19, description="Niceness of the rebuild; 19: lowest priority.")
    max_attempts: int = Field(5, ge=1, description="Attempts to resume a rebuild after it was killed.")

    @model_validator(mode="after")
    def _check_data(self) -> RebuildSettings:
        if self.cron is not None and (self.labels is None) == (self.manifest is None):
            raise ValueError("a rebuild needs either rebuild.labels or rebuild.manifest")
        return self
