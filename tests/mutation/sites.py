"""Where a source file can be mutated, and the mutated source: cosmic-ray's operators, and one that drops a call."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Keyword


class DropCall(Operator):
    """Replaces a statement that only calls something by ``pass``: an fsync, a close, a check that raises."""

    LOGS = re.compile(r"\s*log\.\w+\(")

    def mutation_positions(self, node):
        if node.type == "simple_stmt" and node.children[0].type == "atom_expr":
            call = node.children[0]
            if call.children[-1].get_code().startswith("(") and not self.LOGS.match(call.get_code()):
                yield (call.start_pos, call.end_pos)

    def mutate(self, node, index):
        call = node.children[0]
        node.children[0] = Keyword("pass", call.start_pos, prefix=call.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls):
        return (Example("os.fsync(3)\n", "pass\n"),)


@dataclass(frozen=True)
class Mutant:
    """One mutation: the operator's ``occurrence``-th place in the file, on lines ``first`` to ``last``."""

    path: str
    first: int
    last: int
    operator: str
    occurrence: int

    @property
    def key(self) -> str:
        """Its name among results."""
        return f"{self.path}:{self.first}-{self.last} {self.operator} {self.occurrence}"

    def source(self, original: str) -> str:
        """Return the mutated source."""
        mutated = mutate_code(original, OPERATORS[self.operator](), self.occurrence)
        assert mutated is not None, self
        return mutated


def _operators() -> dict[str, type[Operator]]:
    provider = OperatorProvider()
    return {"DropCall": DropCall} | {name: provider[name] for name in provider if not provider[name].arguments()}


OPERATORS = _operators()


def _other_checks(source: str) -> set[int]:
    """Lines whose checks are the type checker's: imports for types, how a dataclass is made."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            lines.update(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, ast.ClassDef):
            lines.update(each.lineno for each in node.decorator_list)
    return lines


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans of annotations, which nothing evaluates; line and column of their first and last characters."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
    return [((each.lineno, each.col_offset), (each.end_lineno, each.end_col_offset)) for each in found if each]


def _statements(source: str) -> dict[int, int]:
    """The first line of the innermost statement on each line: what coverage.py says has run."""
    starts: dict[int, int] = {}
    for node in ast.walk(ast.parse(source)):  # outer statements come first
        if isinstance(node, ast.stmt):
            starts |= dict.fromkeys(range(node.lineno, node.end_lineno + 1), node.lineno)
    return starts


def mutants_of(root: Path, path: str, wanted: Sequence[str]) -> Iterator[list[Mutant]]:
    """Yield the mutants of each place of a file by the operators whose whole names match one of ``wanted``."""
    source = (root / path).read_text(encoding="utf-8")
    tree, statements = get_ast(source), _statements(source)
    typed, annotations = _other_checks(source), _annotations(source)
    places: dict[tuple[int, int], list[Mutant]] = defaultdict(list)
    for name, operator in OPERATORS.items():
        if not any(re.fullmatch(each, name) for each in wanted):
            continue
        positions = (place for node in ast_nodes(tree) for place in operator().mutation_positions(node))
        for occurrence, (start, end) in enumerate(positions):
            if start[0] in typed or any(first <= start < last for first, last in annotations):
                continue
            first = statements.get(start[0], start[0])
            places[start].append(Mutant(path, first, end[0], name, occurrence))
    yield from (places[start] for start in sorted(places))


def _program(source: str) -> tuple[str, Counter[type]]:
    """What a source does, and how often it has each binary operator."""
    tree = ast.parse(source)
    return ast.dump(tree), Counter(type(node) for node in ast.walk(tree) if isinstance(node, ast.operator))


def _is_another_program(root: Path, mutant: Mutant) -> bool:
    """Whether a mutant can be told from the original: cosmic-ray also takes the star of a signature for a product."""
    original = (root / mutant.path).read_text(encoding="utf-8")
    try:
        after, operators = _program(mutant.source(original))
    except (SyntaxError, AttributeError):  # AttributeError: cosmic-ray expects exceptions without a dot in their name
        return False
    before, operators_before = _program(original)
    return after != before and (operators != operators_before or "BinaryOperator" not in mutant.operator)


def sample(root: Path, files: Sequence[str], wanted: Sequence[str], size: int | None, seed: int) -> list[Mutant]:
    """Draw ``size`` places of all files evenly (all for None), and one mutant of each."""
    draw = Random(seed)
    places = [place for path in files for place in mutants_of(root, path, wanted)]
    draw.shuffle(places)
    mutants = filter(lambda mutant: _is_another_program(root, mutant), map(draw.choice, places))
    return list(islice(mutants, size))
