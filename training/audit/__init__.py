"""The audit of a data set: duplicates, leakage between sides, what a model reads off outside the lungs.

Nothing is imported here: processes that hash files load ``near_duplicates`` alone.
"""
