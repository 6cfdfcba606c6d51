"""A training run: its folder, the training loop, checkpoints, predictions.

Nothing is imported here: reading a run's folder needs no TensorFlow.
"""
