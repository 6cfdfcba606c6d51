"""Received images: receipts, resends, lost files, Storage Commitment."""

from __future__ import annotations

from db.images.lost_files import needs_file
from db.images.receipts import find_latest, is_dataset, receive, receive_again, seal, sealed_values

__all__ = ["find_latest", "is_dataset", "needs_file", "receive", "receive_again", "seal", "sealed_values"]
