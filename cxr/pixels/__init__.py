"""From the stored pixels of an image to the input of a model.

This module imports nothing: ``model_input`` and ``decode`` load OpenCV and the decoders, which the listener must not
load.
"""
