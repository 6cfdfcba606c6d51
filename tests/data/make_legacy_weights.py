"""Write the MIDRC graph with Keras 2 (package tf_keras), as its authors did, and what it predicts.

Run by tests/unit/test_training_legacy.py in a process of its own: two versions of Keras in one
process share TensorFlow's state.

    python make_legacy_weights.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tf_keras

folder = Path(sys.argv[1])
rng = np.random.default_rng(7)
tf_keras.utils.set_random_seed(7)

trunk = tf_keras.applications.ResNet50(weights=None, include_top=False, pooling="max", input_shape=(None, None, 3))
hidden = tf_keras.layers.Dense(512, activation="relu")(trunk.output)
model = tf_keras.Model(trunk.input, tf_keras.layers.Dense(1, activation="sigmoid")(hidden))

grey = rng.random((6, 64, 64, 1), dtype=np.float32) * np.linspace(0.2, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1)
grey[:3, 16:48, 16:48] = 0  # not only brightness: some have a shape
colour = np.repeat(grey, 3, axis=3)

for layer in model.layers:
    if isinstance(layer, tf_keras.layers.BatchNormalization):
        gamma, beta, mean, variance = layer.get_weights()
        gamma, beta = rng.uniform(0.8, 1.2, gamma.shape), rng.normal(0, 0.1, beta.shape)
        layer.set_weights([gamma, beta, mean, variance])
        layer.momentum = 0.0
model(colour, training=True)  # statistics of a trained network, near enough
# Fifty random layers blow float32's rounding up to 1e-4 of what comes out of them; a trained head is no amplifier.
model.layers[-1].set_weights([rng.normal(0, 0.002, (512, 1)), np.array([0.3])])
model.compile(optimizer=tf_keras.optimizers.legacy.Adam(1e-4), loss="binary_crossentropy")

np.save(folder / "images.npy", grey)
np.save(folder / "predictions.npy", model.predict(colour, verbose=0))
model.save(folder / "resnet_covid.hdf5", save_format="h5")
model.save_weights(folder / "weights.h5")

other = tf_keras.Sequential(
    [
        tf_keras.layers.Input((64, 64, 3)),
        tf_keras.layers.Conv2D(4, 3, name="block1_conv1"),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(1),
    ]
)
other.save(folder / "other.h5", save_format="h5")
