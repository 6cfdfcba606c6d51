from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from cxr.errors import DeviceExhausted
from inference.model.batches import HalvingScorer, ModelOutput
from inference.model.tensorflow_runtime import is_exhausted


class Device:
    """Scores with the mean of each image, and holds so many images at once."""

    def __init__(self, capacity: int, *, has_evidence: bool = True) -> None:
        self.capacity = capacity
        self.has_evidence = has_evidence
        self.sizes: list[int] = []

    def __call__(self, batch: NDArray[np.float32]) -> ModelOutput:
        self.sizes.append(len(batch))
        if len(batch) > self.capacity:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        means = batch.mean(axis=(1, 2, 3))[:, None]
        return ModelOutput(means, batch[:, :2, :2] if self.has_evidence else None)


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).random((count, 4, 4, 1), dtype=np.float32)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 16])
@pytest.mark.parametrize("has_evidence", [True, False])
def test_every_image_is_scored_in_order_whatever_fits(capacity: int, count: int, has_evidence: bool) -> None:
    batch = images(count)
    output = HalvingScorer(Device(capacity, has_evidence=has_evidence), is_exhausted=is_exhausted)(batch)
    np.testing.assert_array_equal(output.probabilities, batch.mean(axis=(1, 2, 3))[:, None])
    if has_evidence:
        np.testing.assert_array_equal(output.evidence, batch[:, :2, :2])
    else:
        assert output.evidence is None


def test_a_batch_is_halved_until_it_fits_and_the_size_is_kept() -> None:
    device = Device(capacity=3)
    scorer = HalvingScorer(device, is_exhausted=is_exhausted)
    assert scorer.limit is None
    scorer(images(8))
    assert device.sizes == [8, 4, 2, 2, 2, 2]
    assert scorer.limit == 2
    scorer(images(5))
    assert device.sizes[6:] == [2, 2, 1]


def test_a_batch_that_fits_goes_whole() -> None:
    device = Device(capacity=8)
    HalvingScorer(device, is_exhausted=is_exhausted)(images(8))
    assert device.sizes == [8]


def test_where_not_one_image_fits_the_error_says_what_to_do_and_can_be_retried() -> None:
    scorer = HalvingScorer(Device(capacity=0), is_exhausted=is_exhausted)
    with pytest.raises(DeviceExhausted, match=r"worker\.device") as caught:
        scorer(images(4))
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, tf.errors.ResourceExhaustedError)


def test_the_cpu_takes_over_where_that_is_allowed_and_keeps_its_own_limit() -> None:
    gpu, cpu = Device(capacity=0), Device(capacity=4)
    scorer = HalvingScorer(gpu, is_exhausted=is_exhausted, fall_back=lambda: cpu)
    batch = images(4)
    np.testing.assert_array_equal(scorer(batch).probabilities, batch.mean(axis=(1, 2, 3))[:, None])
    assert gpu.sizes == [4, 2, 1]
    assert cpu.sizes == [4]
    assert scorer.limit is None


def test_there_is_one_fall_back() -> None:
    scorer = HalvingScorer(Device(capacity=0), is_exhausted=is_exhausted, fall_back=lambda: Device(capacity=0))
    with pytest.raises(DeviceExhausted):
        scorer(images(4))


def test_an_error_that_is_not_memory_is_not_retried() -> None:
    sizes: list[int] = []

    def broken(batch: NDArray[np.float32]) -> ModelOutput:
        sizes.append(len(batch))
        raise tf.errors.InvalidArgumentError(None, None, "shapes differ")

    with pytest.raises(tf.errors.InvalidArgumentError):
        HalvingScorer(broken, is_exhausted=is_exhausted)(images(4))
    assert sizes == [4]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), True),
        (tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (tf.errors.UnknownError(None, None, "Failed to allocate scratch memory"), True),
        (tf.errors.InternalError(None, None, "CUDA_ERROR_ILLEGAL_ADDRESS"), False),
        (ValueError("memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_exhausted(error) is expected


@pytest.mark.long  # the allocator waits for ten seconds before it gives up
def test_tensorflow_raises_what_we_wait_for() -> None:
    # 2^55 bytes: no machine has them, and the real allocator says so in the real error.
    with pytest.raises(Exception, match=r".") as caught, tf.device("/CPU:0"):
        tf.zeros((1 << 53,), tf.float32)
    assert is_exhausted(caught.value)
