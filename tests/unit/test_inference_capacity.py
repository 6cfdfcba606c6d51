"""Batch size and decoding processes: what the settings say, else from the cores and the device."""

from __future__ import annotations

import pytest

from inference.worker.capacity import batch_size, decode_processes


@pytest.mark.parametrize(
    ("wanted", "device", "cores", "expected"),
    [
        (0, "cpu", 1, 8),
        (0, "cpu", 2, 8),
        (0, "cpu (openvino)", 16, 16),
        (0, "cpu", 96, 32),
        (0, "gpu:0", 2, 32),
        (3, "cpu", 96, 3),
        (256, "gpu:1", 2, 256),
    ],
)
def test_batch_size(wanted: int, device: str, cores: int, expected: int) -> None:
    assert batch_size(wanted, device=device, cores=cores) == expected


@pytest.mark.parametrize(("wanted", "cores", "expected"), [(0, 1, 1), (0, 4, 4), (0, 64, 8), (12, 2, 12)])
def test_decode_processes(wanted: int, cores: int, expected: int) -> None:
    assert decode_processes(wanted, cores=cores) == expected
