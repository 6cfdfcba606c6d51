"""Figures of merit from arrays of truths and scores: NumPy, SciPy and scikit-learn, no model, no files.

Truths are booleans, scores are finite floats of any scale, groups name the patient of each image.
A figure that does not exist (one class only, no images) is None, never NaN.
"""
