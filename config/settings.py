"""All settings of one installation, read here alone from file and environment.

Sources in order of precedence: a flag of the command, ``CXR_SECTION__KEY`` in the environment, the TOML
file, the default. The commands in ``app`` load the settings once and pass each object its part; nothing reads
settings at import, and there are no globals.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableValue

from config.faults import describe, without_faulty
from config.sections import (
    AuditSettings,
    DeliverySettings,
    DestinationSettings,
    GateSettings,
    ListenerSettings,
    LogSettings,
    MetricsSettings,
    PeerSettings,
    RebuildSettings,
    ReportSettings,
    RetentionSettings,
    Section,
    TlsSettings,
    ViewSettings,
    WorkerSettings,
    is_loopback,
)
from cxr.errors import SettingsError

__all__ = [
    "AuditSettings",
    "DeliverySettings",
    "DestinationSettings",
    "GateSettings",
    "ListenerSettings",
    "LogSettings",
    "MetricsSettings",
    "PeerSettings",
    "RebuildSettings",
    "ReportSettings",
    "RetentionSettings",
    "Section",
    "Settings",
    "TlsSettings",
    "ViewSettings",
    "WorkerSettings",
    "load_settings",
    "merge",
]

PREFIX = "CXR_"
DEFAULT_FILE = Path("cxr.toml")

_NOT_SETTINGS = frozenset({"CXR_CONFIG", "CXR_REQUIRE_PEERS"})
_HINT = "`cxr config example` shows every setting."

_LAST_PORT = 65535


class Settings(BaseSettings):
    """All settings of one installation."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    data_dir: Path = Field(
        Path("var"), description="Folder of all stored data: audit database, spool, models, runs, backups."
    )
    listener: ListenerSettings = ListenerSettings()
    peers: tuple[PeerSettings, ...] = Field((), description="Peers that may send; none: every AE title on loopback.")
    destinations: tuple[DestinationSettings, ...] = Field(
        (), description="Destinations of reports; none: reports stay in the data folder."
    )
    view: ViewSettings = ViewSettings()
    worker: WorkerSettings = WorkerSettings()
    gates: GateSettings = GateSettings()
    report: ReportSettings = ReportSettings()
    delivery: DeliverySettings = DeliverySettings()
    retention: RetentionSettings = RetentionSettings()
    rebuild: RebuildSettings = RebuildSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _check_consistency(self) -> Settings:
        faults = [*self._faults_of_peers(), *self._faults_of_ports(), *self._faults_of_rebuild()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults_of_peers(self) -> Iterator[str]:
        if not self.peers and not is_loopback(self.listener.bind):
            yield (
                "listener.bind is not a loopback address and there is no [[peers]] entry: "
                "name each sender (ae_title and network), or bind to 127.0.0.1"
            )
        names = [destination.name for destination in self.destinations]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two [[destinations]] have the name {name!r}"
        peers = {peer.ae_title for peer in self.peers}
        for destination in self.destinations:
            unknown = sorted(set(destination.from_peers) - peers)
            if peers and unknown:
                yield f"from_peers of destination {destination.name!r} has no [[peers]] entry: {', '.join(unknown)}"

    def _faults_of_ports(self) -> Iterator[str]:
        ports = [
            ("listener.port", self.listener.port),
            ("listener.tls.port", self.listener.tls.port),
            *(("metrics.listener_port", port) for port in self.listener_metrics_ports),
            ("metrics.worker_port", self.metrics.worker_port),
        ]
        for port in sorted({port for _, port in ports if port is not None}):
            names = [name for name, value in ports if value == port]
            if len(names) > 1:
                yield f"{' and '.join(names)} are the same port, {port}"
        if max(self.listener_metrics_ports, default=0) > _LAST_PORT:
            yield f"metrics.listener_port leaves no port for each of {self.listener.processes} listening processes"

    def _faults_of_rebuild(self) -> Iterator[str]:
        if self.rebuild.cron and self.rebuild.labels and self.audit.identifiers != "full":
            yield (
                'rebuild.labels are joined by the UIDs that audit.identifiers = "full" keeps; with '
                f"{self.audit.identifiers!r} name a rebuild.manifest"
            )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use the values of ``load_settings`` only, which merges file, environment and flags."""
        return (init_settings,)

    @property
    def listener_metrics_ports(self) -> tuple[int, ...]:
        """Ports of the listener's metrics, one for each listening process."""
        first = self.metrics.listener_port
        return () if first is None else tuple(range(first, first + self.listener.processes))

    @property
    def database_path(self) -> Path:
        """The audit database."""
        return self.data_dir / "audit.sqlite"

    @property
    def snapshot_path(self) -> Path:
        """Snapshot of the audit database for readers."""
        return self.data_dir / "audit-read.sqlite"

    @property
    def spool_dir(self) -> Path:
        """Received objects and reports."""
        return self.data_dir / "spool"

    @property
    def models_dir(self) -> Path:
        """Model packages."""
        return self.data_dir / "models"

    @property
    def runs_dir(self) -> Path:
        """Training runs of scheduled rebuilds."""
        return self.rebuild.runs_dir or self.data_dir / "runs"

    @property
    def backup_dir(self) -> Path:
        """Nightly backups."""
        return self.data_dir / "backup"

    @property
    def audit_key_path(self) -> Path:
        """Key of the event chain; outside the database's folder."""
        return self.audit.key_file or self.data_dir.parent / f"{self.data_dir.name}.keys" / "audit.key"

    @property
    def pseudonym_key_path(self) -> Path:
        """Key of pseudonyms; outside the database's folder."""
        return self.audit.pseudonym_key_file or self.audit_key_path.with_name("pseudonym.key")

    @property
    def audit_heads_path(self) -> Path:
        """Exported heads of the event chain, beside its key: truncating the log does not truncate them."""
        return self.audit_key_path.with_name("audit.heads")

    @property
    def database_traces(self) -> tuple[Path, ...]:
        """Files created after the audit database: if one of them exists, there was a database."""
        beside = self.spool_dir.with_name(f"{self.spool_dir.name}.id")
        return (self.audit_heads_path, beside, self.spool_dir / "spool.id")


def load_settings(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings of this installation.

    Parameters
    ----------
    file
        The TOML file. None: ``CXR_CONFIG`` of the environment, else ``cxr.toml`` of the working
        folder if there is one, else defaults alone.
    environ
        The environment; None: the process's own.
    flags
        Nested values of the command line, which override all others.

    Raises
    ------
    SettingsError
        If there are faults; the message lists each with the received value, the accepted values and the
        source.
    """
    environment = dict(os.environ if environ is None else environ)  # noqa: TID251 (the only reader)
    faults: list[str] = []
    path = _settings_file(file, environment)
    layers = {
        f"the settings file {path}": _read_file(path, faults),
        "the environment": _read_environment(environment, faults),
        "the command line": dict(flags or {}),
    }
    merged: dict[str, Any] = {}
    for layer in layers.values():
        merged = merge(merged, layer)
    settings = _validate(merged, layers, faults)
    if settings is None or faults:
        raise SettingsError("\n".join(["The settings have faults:", *(f"  {fault}" for fault in faults), _HINT]))
    return settings


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Override nested values by others; tables are merged key by key, other values are replaced."""
    merged = dict(base)
    for key, value in over.items():
        present = merged.get(key)
        if isinstance(present, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(present, value)
        else:
            merged[key] = value
    return merged


def _settings_file(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    """Return the file of ``--config`` or ``CXR_CONFIG``, else ``cxr.toml`` if it exists."""
    if file is not None:
        return file
    if environment.get("CXR_CONFIG"):
        return Path(environment["CXR_CONFIG"])
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _read_file(path: Path | None, faults: list[str]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        faults.append(f"the settings file {path} can't be read ({error.strerror}): check --config or CXR_CONFIG")
    except UnicodeDecodeError:
        faults.append(f"the settings file {path} is not UTF-8 text")
    except tomllib.TOMLDecodeError as error:
        faults.append(f"the settings file {path} is not valid TOML: {error}")
    return {}


class _Environment(EnvSettingsSource):
    """pydantic's reader of ``CXR_SECTION__KEY``, over a given environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {key.lower(): value for key, value in environment.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._environment


def _read_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key in sorted(environment):
        if not key.upper().startswith(PREFIX) or key.upper() in _NOT_SETTINGS:
            continue
        section = key.upper().removeprefix(PREFIX).split("__")[0].lower()
        if section not in Settings.model_fields:
            faults.append(f"{key}: there is no such setting; the environment variable is read as {section!r}")
            continue
        try:
            values = merge(values, _Environment({key: environment[key]})())
        except UnreadableValue:
            faults.append(f"{key}: accepted is JSON for a list or table in the environment")
    return values


def _validate(merged: dict[str, Any], layers: Mapping[str, Any], faults: list[str]) -> Settings | None:
    try:
        return Settings(**merged)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    faults += [describe(fault, layers, Settings) for fault in errors]
    # Checks across tables run only if each table is valid: run them on the rest, too.
    rest = without_faulty([fault["loc"] for fault in errors], merged)
    if rest is not None:
        try:
            Settings(**rest)
        except ValidationError as error:
            faults += [describe(fault, layers, Settings) for fault in error.errors(include_url=False)]
    return None
