"""The report: one scored image as a Comprehensive 3D SR, marked for research in every place it has.

Loads highdicom. What delivery needs of an encoded report (``inference.fallback``,
``inference.part10``) does not.
"""

from inference.part10 import encode
from inference.report.build import BuiltReport, ReportOptions, SourceDigests, build_report
from inference.report.check import TreeCheck, warm_up

__all__ = ["BuiltReport", "ReportOptions", "SourceDigests", "TreeCheck", "build_report", "encode", "warm_up"]
