"""Activations of model packages, and rebuilds."""

from __future__ import annotations

from db.models.activations import list_activations, record_activation
from db.models.rebuilds import Outcome, RebuildRow

__all__ = ["Outcome", "RebuildRow", "list_activations", "record_activation"]
