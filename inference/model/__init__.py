"""A package's model, ready to score: batches, runtimes, devices, Grad-CAM.

Nothing is imported here: who wants the devices needs no runtime.
"""
