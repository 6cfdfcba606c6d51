"""From the stored pixels of an image to the input of a model.

Nothing is imported here: ``raster``, ``recipe`` and ``pixel_header`` are light, ``model_input`` and ``decode`` load
OpenCV and the decoders.
"""
