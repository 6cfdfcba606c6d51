"""A package's model on its device: batches, runtimes, devices, Grad-CAM, export.

Nothing is imported here, so that importing ``devices`` does not load TensorFlow.
"""
