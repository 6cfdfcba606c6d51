"""Context that the command passes to its subcommands: the sources of the settings, not the settings.

A subcommand without need of settings (``cxr --help``, ``cxr config example``) reads none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.settings import Settings, load_settings, merge
from cxr.errors import SettingsError


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The object of every typer context (``ctx.obj``).

    Parameters
    ----------
    config_file
        The file of ``--config``; None: ``CXR_CONFIG``, else ``cxr.toml``, else defaults.
    overrides
        The values of ``--set``, nested.
    """

    config_file: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, flags: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings, overridden by the flags of a subcommand.

        Parameters
        ----------
        flags
            Nested values, as ``{"listener": {"port": 104}}``; they override file and environment.

        Raises
        ------
        SettingsError
            If there are faults; the message lists all.
        """
        return load_settings(self.config_file, flags=merge(self.overrides, flags or {}))

    def with_file(self, config_file: Path) -> CommandContext:
        """Return a copy with another settings file."""
        return CommandContext(config_file=config_file, overrides=self.overrides)

    def with_overrides(self, *layers: Mapping[str, Any]) -> CommandContext:
        """Return a copy with more overrides."""
        overrides = dict(self.overrides)
        for layer in layers:
            overrides = merge(overrides, layer)
        return CommandContext(config_file=self.config_file, overrides=overrides)

    def as_arguments(self) -> list[str]:
        """Return the global options for another ``cxr`` process with the same settings."""
        arguments = ["--config", str(self.config_file)] if self.config_file else []
        for key, value in _flatten(self.overrides):
            arguments += ["--set", f"{key}={value}"]
        return arguments


def _flatten(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``section.key=value`` pairs to nested values; pydantic converts their types.

    Raises
    ------
    SettingsError
        If a pair has another form.

    Examples
    --------
    >>> parse_overrides(["listener.port=104", "data_dir=/srv/cxr"])
    {'listener': {'port': '104'}, 'data_dir': '/srv/cxr'}
    """
    nested: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise SettingsError(
                f"--set: received {pair!r}; accepted is section.key=value, for example listener.port=104."
            )
        for part in reversed(key.split(".")):
            value = {part: value}  # type: ignore[assignment]
        nested = merge(nested, value)  # type: ignore[arg-type]
    return nested
