"""Audit of a data set: duplicates, leakage between sides, shortcuts outside the lungs.

Nothing is imported here: child processes that hash files load ``near_duplicates`` alone.
"""
