"""Which tests reach a line: from a coverage database with one context a test, and the times of a JUnit report."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coverage import CoverageData


def _junit_name(test: str) -> str:
    """A node id as the JUnit report writes it: dots for the folders, the class and the name."""
    name, bracket, parameters = test.partition("[")
    return name.replace("/", ".").replace(".py::", ".", 1).replace("::", ".") + bracket + parameters


@dataclass
class Reach:
    """The tests of each line of each file, and each test's seconds."""

    lines: Mapping[str, Mapping[int, set[str]]]
    seconds: Mapping[str, float]
    _ranked: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, coverage: Path, junit: Path) -> Reach:
        """Read what the run of the tests left; ``root`` is the checkout that they ran in."""
        data = CoverageData(str(coverage))
        data.read()
        lines: dict[str, dict[int, set[str]]] = {}
        for path in data.measured_files():
            contexts = data.contexts_by_lineno(path)
            lines[str(Path(path).relative_to(root))] = {
                line: {each.partition("|")[0] for each in names if each} for line, names in contexts.items()
            }
        cases = ET.parse(junit).getroot().iter("testcase")
        taken = {f"{case.get('classname')}.{case.get('name')}": float(case.get("time", 0)) for case in cases}
        tests = {test for file in lines.values() for names in file.values() for test in names}
        return cls(lines, {test: taken.get(_junit_name(test), 1.0) for test in tests})

    def _first_file(self, path: str) -> str:
        """The test file that reaches most lines of a module."""
        files: Counter[str] = Counter()
        for names in self.lines.get(path, {}).values():
            files.update({test.partition("::")[0] for test in names})
        return files.most_common(1)[0][0] if files else ""

    def tests_of(self, path: str, first: int, last: int, budget_s: float) -> list[str]:
        """Return the tests that reach lines ``first`` to ``last``, the most telling first, up to ``budget_s``.

        Those of the file that reaches most of the module come first, then the others; the fast before the slow. What
        runs at the import alone is reached by every test of the module.
        """
        reached = self.lines.get(path, {})
        tests = set().union(*(names for line, names in reached.items() if first <= line <= last))
        if len(tests) <= 1:
            tests = set().union(*reached.values()) if reached else set()
        named = f"{self._first_file(path)}::"
        order = sorted(tests, key=lambda test: (not test.startswith(named), self.seconds[test], test))
        # What tests start as a process of its own is not measured; the tests of that file are the likely ones.
        order += sorted(test for test in self.seconds if test.startswith(named) and test not in tests)
        chosen, total = [], 0.0
        for test in order:
            total += self.seconds[test]
            if chosen and total > budget_s:
                break
            chosen.append(test)
        return chosen
