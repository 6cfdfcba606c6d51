"""Networks in Keras: backbones, heads, U-Net, features, files.

Import ``grad_cam`` from its module: it loads TensorFlow.
"""

from __future__ import annotations

from training.networks.backbones import BACKBONES
from training.networks.features import FEATURES, feature_layer, features_of
from training.networks.keras_file import save_network
from training.networks.network import POOLED, Activation, Head, Scaling, build
from training.networks.unet import build_unet

__all__ = [
    "BACKBONES",
    "FEATURES",
    "POOLED",
    "Activation",
    "Head",
    "Scaling",
    "build",
    "build_unet",
    "feature_layer",
    "features_of",
    "save_network",
]
