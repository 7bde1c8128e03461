"""The mutants of a module: its source with one small change.

Cosmic Ray's operators generate them. A binary operator is replaced once, a comparison by its
neighbour and its opposite: other replacements mostly raise a TypeError, which inflates the score.
"""

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

_BINARY = """
    Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div Mod_Mul Pow_Mul BitOr_BitAnd BitAnd_BitOr
    BitXor_BitAnd RShift_LShift LShift_RShift
"""
_COMPARISON = """
    Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt
    Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is
"""
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in _BINARY.split()),
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISON.split()),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Invert_Not", "Delete_Not")),
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ZeroIterationForLoop",
)

Place = tuple[int, int]  # line from 1, column from 0


@dataclass(frozen=True)
class Mutant:
    """One change in one file."""

    file: str
    line: int
    operator: str
    source: str  # the complete file
    diff: str


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """All mutants that differ as programs: none in annotations, no duplicates."""
    annotations, known = _annotations(source), {ast.dump(ast.parse(source))}
    provider: Any = OperatorProvider()
    for name in OPERATORS:
        operator: Any = provider[name]()
        places = (
            start
            for node in ast_nodes(get_ast(source))
            for start, _ in operator.mutation_positions(node)
        )
        for occurrence, place in enumerate(places):
            if any(start <= place < end for start, end in annotations):
                continue
            try:
                changed = mutate_code(source, operator, occurrence)
                meaning = ast.dump(ast.parse(changed))
            except (AttributeError, SyntaxError):  # Cosmic Ray cannot handle `except (a.B, c.D):`
                continue
            if meaning not in known:
                known.add(meaning)
                yield Mutant(file, place[0], name, changed, _diff(file, source, changed))


def _annotations(source: str) -> list[tuple[Place, Place]]:
    """Ranges of annotations, which no program reads: from, and before."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
    return [
        ((n.lineno, n.col_offset), (n.end_lineno or n.lineno, n.end_col_offset or 0))
        for n in found
        if n
    ]


def _diff(file: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"a/{file}", f"b/{file}", lineterm="", n=1
    )
    return "\n".join(lines)
