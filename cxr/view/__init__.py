"""Decide from the header whether an image is a frontal chest radiograph."""

from __future__ import annotations

from cxr.view.decide import REASONS, SECONDARY_CAPTURE, decide_view, initial_state

__all__ = ["REASONS", "SECONDARY_CAPTURE", "decide_view", "initial_state"]
