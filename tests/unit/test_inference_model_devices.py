from __future__ import annotations

import logging

import pytest
import tensorflow as tf

from config.native_logs import quiet_tensorflow
from cxr.errors import SettingsError
from inference.model.devices import DeviceChoice, choose_device


@pytest.mark.parametrize(
    ("requested", "gpus", "expected"),
    [
        ("cpu", 0, DeviceChoice("cpu")),
        ("cpu", 2, DeviceChoice("cpu")),
        ("auto", 0, DeviceChoice("cpu", warning="no_gpu_scoring_on_cpu")),
        ("auto", 1, DeviceChoice("gpu:0", may_fall_back=True)),
        ("auto", 4, DeviceChoice("gpu:0", may_fall_back=True)),
        ("gpu:0", 1, DeviceChoice("gpu:0")),
        ("gpu:3", 4, DeviceChoice("gpu:3")),
    ],
)
def test_the_device_follows_the_request(requested: str, gpus: int, expected: DeviceChoice) -> None:
    assert choose_device(requested, gpus) == expected


@pytest.mark.parametrize(("requested", "gpus"), [("gpu:0", 0), ("gpu:1", 1), ("gpu:10", 2)])
def test_a_gpu_by_number_is_never_replaced(requested: str, gpus: int) -> None:
    with pytest.raises(SettingsError, match=rf"{requested}, and TensorFlow sees {gpus} GPU"):
        choose_device(requested, gpus)


@pytest.mark.parametrize("requested", ["", "gpu", "gpu:", "gpu:-1", "gpu:x", "GPU:0", "tpu:0"])
def test_another_request_is_refused(requested: str) -> None:
    with pytest.raises(SettingsError, match="auto, cpu or gpu:N"):
        choose_device(requested, 8)


def test_native_logs_are_kept_for_a_gpu_that_was_asked_for() -> None:
    levels = {}
    for device in ("auto", "cpu", "gpu:1"):
        environment: dict[str, str] = {}
        quiet_tensorflow(device, environment)
        levels[device] = environment
    assert levels == {
        "auto": {"TF_CPP_MIN_LOG_LEVEL": "3"},
        "cpu": {"TF_CPP_MIN_LOG_LEVEL": "3"},
        "gpu:1": {"TF_CPP_MIN_LOG_LEVEL": "1"},
    }


def test_a_level_that_somebody_chose_stays() -> None:
    environment = {"TF_CPP_MIN_LOG_LEVEL": "0"}
    quiet_tensorflow("cpu", environment)
    assert environment == {"TF_CPP_MIN_LOG_LEVEL": "0"}


def test_tensorflow_does_not_warn_of_graphs_that_are_compiled_anew() -> None:
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    quiet_tensorflow("cpu", {})
    assert not tf.get_logger().isEnabledFor(logging.WARNING)
