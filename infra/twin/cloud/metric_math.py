"""CloudWatch's metric math, as far as alarms use it: arithmetic on series, and a few functions.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence

Value = float | None  # None: no data in that period
Values = Sequence[Value]  # one for each period

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Div: operator.truediv,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.Sub: operator.sub,
}
_REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "AVG": lambda values: sum(values) / len(values),
    "MAX": max,
    "MIN": min,
    "SUM": sum,
}


class UnknownExpression(ValueError):
    """It uses what is not known here."""


def evaluate(expression: str, series: Mapping[str, Values], periods: int) -> Values:
    """The expression's value in each period; none where an operand has none, or by 0.

    Raises:
        UnknownExpression: it does not parse, or uses what is not known here.
    """
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise UnknownExpression(expression) from error
    return [_value(tree, series, place) for place in range(periods)]


def _value(node: ast.expr, series: Mapping[str, Values], place: int) -> Value:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in series:
            return series[name][place]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, series, place)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            values = (_value(left, series, place), _value(right, series, place))
            return _combined(_OPERATORS[type(op)], values)
        case ast.Call(func=ast.Name(id="FILL"), args=[filled, ast.Constant() as by]):
            value = _value(filled, series, place)
            return _value(by, series, place) if value is None else value
        case ast.Call(func=ast.Name(id=name), args=[ast.List(elts=operands)]) if (
            name in _REDUCTIONS
        ):
            found = [_value(operand, series, place) for operand in operands]
            there = [value for value in found if value is not None]
            return _REDUCTIONS[name](there) if there else None
    raise UnknownExpression(ast.unparse(node))


def _combined(combine: Callable[[float, float], float], operands: tuple[Value, Value]) -> Value:
    left, right = operands
    if left is None or right is None:
        return None
    try:
        return combine(left, right)
    except ZeroDivisionError:
        return None
