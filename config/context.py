"""What the command hands to its verbs: where the settings are, not the settings themselves.

A verb that needs none (``cxr --help``, ``cxr config example``) reads none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The object of every typer context (``ctx.obj``).

    Parameters
    ----------
    config_file
        The file that ``--config`` named; None: ``CXR_CONFIG``, else ``cxr.toml``, else defaults.
    """

    config_file: Path | None = None

    def settings(self, flags: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings once, with a verb's flags over them.

        Parameters
        ----------
        flags
            Nested values, as ``{"listener": {"port": 104}}``; they override file and environment.

        Raises
        ------
        SettingsError
            If anything is wrong; the message lists every fault.
        """
        return load_settings(self.config_file, flags=flags)
