"""A formula as documents and charts have it, worked out: + * /, min, max and ceil over named numbers."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "ceil": math.ceil}


def value(formula: str, **numbers: float) -> float:
    """The formula's value with these numbers."""

    def of(node: ast.AST) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id=name):
                return numbers[name]
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATORS[type(op)](of(left), of(right))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return _FUNCTIONS[name](*map(of, arguments))
        raise ValueError(f"{formula!r} has {ast.unparse(node)!r}, which is none of what a formula has")

    return of(ast.parse(formula, mode="eval").body)
