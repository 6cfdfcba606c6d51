"""The report: one scored image as a Comprehensive 3D SR, marked for research in header and content tree.

Nothing is imported here: ``build``, ``tree``, ``check`` and ``evidence_map`` load highdicom; ``uids``, ``part10`` and
``fallback``, which delivery needs, do not.
"""
