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
    """Check the address of a DICOMweb service; a secret in it would show up wherever it is named."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a stow address is a URL that starts with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a stow address has no user in it: set username and password, or token")


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]


class Section(BaseModel):
    """One table of the settings file; unknown keys are faults."""

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid", frozen=True)


class TlsSettings(Section):
    """DICOM TLS (PS3.15 Annex B) for the listener, on a port of its own."""

    port: Port | None = Field(None, description="Port of the TLS listener; absent: no TLS.")
    certificate: Path | None = Field(None, description="PEM file with this service's certificate chain.")
    key: Path | None = Field(None, description="PEM file with its private key; readable by its owner only.")
    ca: Path | None = Field(
        None,
        description="PEM file of the authorities that peers' certificates come from; absent: peers need none.",
    )
    required: bool = Field(False, description="Open no other port: listener.port is not listened on.")
    handshake_timeout_s: float = Field(10.0, gt=0, le=86400, description="How long a peer may take over the handshake.")

    @model_validator(mode="after")
    def _complete(self) -> TlsSettings:
        if self.required and self.port is None:
            raise ValueError("listener.tls.required needs listener.tls.port")
        if self.port is not None and (self.certificate is None or self.key is None):
            raise ValueError("TLS needs listener.tls.certificate and listener.tls.key")
        return self


class CommitmentSettings(Section):
    """Storage Commitment for peers that ask the listener for it."""

    enabled: bool = Field(True, description="Answer requests; off: the presentation context is rejected.")
    keep_days: float = Field(
        30.0, gt=0, description="How long the service keeps a file after it said that it does, short space or not."
    )
    report_on: Literal["same", "new"] = Field(
        "same",
        description="Where the report goes: the peer's own association, or a new one where that has ended; or always "
        "a new one.",
    )


class ListenerSettings(Section):
    """The Storage SCP."""

    ae_title: AETitle = Field("CXR", description="Our AE title.")
    check_called_ae_title: bool = Field(True, description="Reject associations that call another AE title.")
    bind: str = Field("127.0.0.1", description="Address to listen on; any but loopback needs [[peers]].")
    port: Port = Field(11112, description="TCP port to listen on.")
    secondary_capture: bool = Field(False, description="Also take Secondary Capture images.")
    accept_all_storage: bool = Field(
        False,
        description="Also accept every other storage class (answered with Success, recorded, not kept), for a PACS "
        "whose auto-route stops on a rejected presentation context.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="How many processes receive on this port; more than one is for many associations at once, and each "
        "counts its associations for itself.",
    )
    max_associations: int = Field(
        50, ge=1, le=1000, description="Associations at the same time, of each listening process."
    )
    max_pdu_bytes: int = Field(131072, ge=4096, le=4194304, description="Largest PDU that we accept.")
    max_object_mib: int = Field(256, ge=1, le=4096, description="Largest object that we accept.")
    min_free_mib: int = Field(1024, ge=0, description="Below this much free space everything is refused (0xA700).")
    acse_timeout_s: float = Field(10.0, gt=0, le=86400, description="How long a peer may take over its A-ASSOCIATE-RQ.")
    dimse_timeout_s: float = Field(30.0, gt=0, le=86400, description="How long a peer may be silent within a message.")
    message_timeout_s: float = Field(
        900.0, gt=0, le=86400, description="How long a peer may take over one whole message, however busily it sends."
    )
    idle_timeout_s: float = Field(60.0, gt=0, le=86400, description="How long an association may be silent.")
    drain_timeout_s: float = Field(20.0, gt=0, le=86400, description="How long a stop waits for objects in flight.")
    tls: TlsSettings = TlsSettings()
    commitment: CommitmentSettings = CommitmentSettings()


def _host_and_port(address: str, name: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f'{name} is written "host:port"')
    return host.strip("[]"), int(port)


class PeerSettings(Section):
    """Who may send."""

    ae_title: AETitle = Field(description="Calling AE title.")
    network: Network = Field(description="Network it calls from, in CIDR notation.")
    max_associations: int | None = Field(
        None,
        ge=1,
        description="Associations at the same time from this entry, of each listening process; absent: "
        "listener.max_associations.",
    )
    max_object_mib: int | None = Field(
        None, ge=1, description="Largest object that is accepted from this entry; absent: listener.max_object_mib."
    )
    commitment_reports_to: str | None = Field(
        None,
        description='"host:port" where it takes Storage Commitment reports on an association of ours; absent: that of '
        "the dicom destination with its AE title, if there is one.",
    )

    @model_validator(mode="after")
    def _has_an_address(self) -> PeerSettings:
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
    """Where reports go."""

    name: Name = Field(description="How commands, audit rows and logs call it; lower case, digits, - and _.")
    kind: Literal["dicom", "stow", "folder"] = Field(description="C-STORE, DICOMweb STOW-RS, or a folder.")
    address: str = Field(
        description='dicom: "AET@host:port"; stow: the URL of the DICOMweb service; folder: a directory that exists.'
    )
    from_peers: tuple[AETitle, ...] = Field(
        (),
        description="Only results of images that these AE titles sent, first or again; empty: results of all images "
        "but those that a dicom destination's own AE title sent. A PACS that sends images and is to get their results "
        "names itself here.",
    )
    calling_ae_title: AETitle | None = Field(None, description="Our AE title here; absent: listener.ae_title.")
    verify: Literal["auto", "commitment", "find", "none"] = Field(
        "auto",
        description="How arrival is checked: Storage Commitment, C-FIND (stow: QIDO-RS), or the first that works.",
    )
    verify_after_s: float = Field(2.0, ge=0, description="Wait this long before checking.")
    commitment_listen: str | None = Field(
        None,
        description='dicom: "host:port" where we listen for Storage Commitment reports that the peer brings on an '
        "association of its own; absent: only those on ours are heard.",
    )
    timeout_s: float = Field(30.0, gt=0, description="How long the peer may take over one answer.")
    tls: bool = Field(False, description="dicom: use TLS.")
    tls_ca: Path | None = Field(None, description="PEM file of the authorities that the peer's certificate comes from.")
    tls_certificate: Path | None = Field(None, description="dicom: PEM file with our certificate, if the peer asks.")
    tls_key: Path | None = Field(None, description="dicom: PEM file with its private key.")
    username: str | None = Field(None, description="stow: HTTP Basic user name.")
    password: SecretStr | None = Field(None, description="stow: HTTP Basic password; better set by the environment.")
    token: SecretStr | None = Field(None, description="stow: bearer token; better set by the environment.")

    @model_validator(mode="after")
    def _fits_kind(self) -> DestinationSettings:
        if self.kind == "dicom":
            self.dicom_address()
        elif self.kind == "stow":
            _check_url(self.address)
        if self.kind != "stow" and (self.username or self.password or self.token):
            raise ValueError("username, password and token are for kind stow")
        if self.token is not None and (self.username or self.password):
            raise ValueError("either token, or username and password")
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
            raise ValueError('a dicom address is written "AET@host:port"')
        return _ae_title(ae_title), host.strip("[]"), int(port)


class ViewSettings(Section):
    """The frontal filter."""

    unknown: UnknownView = Field(
        UnknownView.HOLD,
        description="An image whose header does not tell the view: hold (until `cxr jobs release`), score, reject, or "
        "model (the view model decides; it must have been trained on 200 laterals or more).",
    )
    pixels: PixelView = Field(
        PixelView.HOLD,
        description="An image that the view model does not take for a frontal chest radiograph: hold (until "
        "`cxr jobs release`), flag (a warning beside its scores), or off.",
    )
    model: Path | None = Field(
        None, description="Folder of a view model (`cxr train view`); absent: the one that comes with the project."
    )


class WorkerSettings(Section):
    """Scoring."""

    device: str = Field("auto", pattern=r"^(auto|cpu|gpu:\d+)$", description="auto, cpu, or gpu:N.")
    runtime: Literal["tensorflow", "openvino"] = Field(
        "tensorflow", description="What runs the model: tensorflow, or openvino (the CPU alone, and faster)."
    )
    default_model: DefaultModel = Field(
        "covid19",
        description="What serves until a package is promoted: covid19 or four-class, the research defaults that come "
        "with the project (DEMONSTRATION MODEL), or untrained, random weights.",
    )
    batch_size: int = Field(
        0,
        ge=0,
        le=256,
        description="Images that are scored at once, at most; 0: 32 on a GPU, on a CPU one for each core that may be "
        "used, 8 at least and 32 at most.",
    )
    decode_processes: int = Field(
        0, ge=0, le=64, description="Processes that decode pixels; 0: one for each core that may be used, at most 8."
    )
    decode_timeout_s: float = Field(60.0, gt=0, description="How long one image may take to decode.")
    max_megapixels: int = Field(64, ge=1, le=1024, description="Largest image, Rows x Columns, that is decoded.")
    poll_s: float = Field(0.1, gt=0, description="How often an idle worker looks for work.")
    lease_s: float = Field(120.0, ge=5, description="A worker that is silent for this long loses its jobs.")
    max_attempts: int = Field(3, ge=1, description="Attempts before a job is failed.")
    retry_s: float = Field(30.0, ge=0, description="Wait before the second attempt; doubles with each.")
    shadow_timeout_s: float = Field(
        30.0,
        gt=0,
        description="How long a shadow (`cxr model shadow`) may take over a batch; the next one waits for it.",
    )


class GateSettings(Section):
    """What a model package has to reach before it is promoted; `--accept-gate` goes past one by name."""

    auc_low: float = Field(0.60, ge=0, le=1, description="Lower end of the area's confidence interval, at least.")
    ece: float = Field(0.10, ge=0, le=1, description="Expected calibration error, at most.")
    subgroup_auc: float = Field(0.55, ge=0, le=1, description="Area in the worst subgroup, at least.")
    blanked_auc: float = Field(
        0.60, ge=0, le=1, description="Area over images without lungs, at most, unless its interval holds 0.5."
    )


class ReportSettings(Section):
    """The DICOM SR and its companions."""

    title: Literal["research", "imaging_measurement_report"] = Field(
        "research",
        description="Root title: our private research title, or (126000, DCM) for IHE AIR consumers.",
    )
    saliency: bool = Field(False, description="Also send an evidence map as Secondary Capture, notice burned in.")
    deliver_untrained: bool = Field(False, description="Deliver results of an untrained package as well.")


class DeliverySettings(Section):
    """Retries towards destinations."""

    retry_first_s: float = Field(10.0, gt=0, description="Wait before the second attempt; doubles with each.")
    retry_max_s: float = Field(3600.0, gt=0, description="Longest wait between two attempts.")
    give_up_after_h: float = Field(168.0, gt=0, description="After this long a delivery is dead until requeued.")
    lease_s: float = Field(120.0, ge=5, description="A sender that is silent for this long loses its deliveries.")


class RetentionSettings(Section):
    """How long pixels and reports are kept; the audit rows stay."""

    pixels_days: float = Field(30.0, ge=0, description="Received objects of finished images; 0: within ten minutes.")
    results_days: float = Field(365.0, ge=0, description="SR files that were delivered; 0: within ten minutes.")
    quarantine_days: float = Field(
        30.0,
        ge=1,
        description="Files that no row knows, from the day they were moved to the quarantine.",
    )
    low_space_mib: int = Field(
        4096,
        ge=0,
        description="Below this much free space the oldest finished pixels go, whatever their age.",
    )


class AuditSettings(Section):
    """The audit database."""

    key_file: Path | None = Field(
        None,
        description="Key of the event chain, made at first start; absent: audit.key in a folder beside data_dir. "
        "Keep a copy apart from the database.",
    )
    identifiers: Literal["full", "pseudonym", "none"] = Field(
        "full",
        description="How identifiers of what is received from now on are stored: as received, as keyed pseudonyms, or "
        "not at all but for one keyed value that tells a resend.",
    )
    pseudonym_key_file: Path | None = Field(
        None,
        description="Key of pseudonyms, made when first needed; absent: pseudonym.key beside the key of the event "
        "chain. Keep a copy apart from the database.",
    )
    snapshot_every_s: float = Field(60.0, gt=0, description="How often audit-read.sqlite is refreshed, if changed.")
    backup_at: TimeOfDay = Field("02:30", description="When the nightly backup runs, local time.")
    backup_keep: int = Field(7, ge=1, description="How many nightly backups are kept.")


class LogSettings(Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level.")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json.")


class MetricsSettings(Section):
    """Prometheus metrics; without a name of anybody, and without a password."""

    bind: str = Field("127.0.0.1", description="Address to serve them on; any but loopback lets others read them.")
    listener_port: Port | None = Field(
        None,
        description="Serve the listener's metrics here, those of further listening processes on the next ports; "
        "absent: nowhere.",
    )
    worker_port: Port | None = Field(None, description="Serve the worker's metrics here; absent: nowhere.")


def _cron(value: str) -> str:
    """Check a cron expression; days of the week by name, because programs differ over what their numbers mean."""
    *numbers, days = value.lower().split() or [""]
    if len(numbers) != len(_BOUNDS):
        raise ValueError("a cron expression has five fields: minute, hour, day, month, day of the week")
    for field, (low, high) in zip(numbers, _BOUNDS, strict=True):
        for part in field.split(","):
            found = _PART.fullmatch(part)
            if found is None or not all(low <= int(each) <= high for each in found.groups()[:2] if each):
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
    """The scheduled rebuild of the model on new labelled images; it ends before promotion, with a report."""

    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        None, description='When, as "minute hour day month weekday", e.g. "0 3 * * sun"; absent: never by itself.'
    )
    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field(
        "UTC", description="In which cron is read; an hour that comes twice counts once, one that is left out is not."
    )
    labels: Path | None = Field(None, description="CSV of test results, joined with the images that the service kept.")
    columns: tuple[str, ...] = Field((), description="Our name of a column of labels and its own: result=diagnosis.")
    words: tuple[str, ...] = Field((), description="A class and its word in labels: covid19=detected.")
    positive: str = Field("covid19", description="Class of positive labels.")
    date_format: str = Field("", description="Form of dates in labels, e.g. %d/%m/%Y; empty: ISO 8601 or YYYYMMDD.")
    days: int = Field(2, ge=0, description="Between label and image at most.")
    images: Path | None = Field(None, description="Folder of DICOM files; absent: those that are in the spool.")
    manifest: Path | None = Field(None, description="A manifest of `cxr train index` instead of labels and images.")
    recipe: str = Field("default-finetune", description="A training recipe's name, or a TOML file.")
    overrides: tuple[str, ...] = Field((), description="Keys of the recipe and their values: compute.devices=cpu.")
    start: Path | None = Field(None, description="Folder of the finished run whose weights it starts from.")
    runs_dir: Path | None = Field(None, description="Where runs go; absent: runs in data_dir.")
    min_new_images: int = Field(100, ge=1, description="Fewer new labelled images than this are not worth it.")
    compare_with_active: bool = Field(True, description="Also let the package in service score the test images.")
    processes: int = Field(1, ge=1, le=64, description="Processes that prepare images.")
    nice: int = Field(15, ge=0, le=19, description="How far it stands back behind the service; 19: furthest.")
    max_attempts: int = Field(5, ge=1, description="How often one is taken up again after it was killed.")

    @model_validator(mode="after")
    def _has_data(self) -> RebuildSettings:
        if self.cron is not None and (self.labels is None) == (self.manifest is None):
            raise ValueError("a rebuild needs either rebuild.labels or rebuild.manifest")
        return self
