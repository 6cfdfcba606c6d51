"""Type aliases for Keras objects: Keras has no type hints that mypy could check."""

from __future__ import annotations

from typing import Any, TypeAlias

KerasModel: TypeAlias = Any
"""A ``keras.Model``."""

Tensor: TypeAlias = Any
"""A Keras or TensorFlow tensor, symbolic or with values."""
