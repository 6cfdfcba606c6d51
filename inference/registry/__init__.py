"""The registry of model packages: the package in service, promotion and its gates."""

from __future__ import annotations

from inference.registry.gates import TRAINED, GateResult, Gates
from inference.registry.registry import Entry, Registry

__all__ = ["TRAINED", "Entry", "GateResult", "Gates", "Registry"]
