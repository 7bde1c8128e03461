"""Whom a trust policy lets in, by the part of IAM's policy language that ours use.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.infra.terraform.policies import statements

ACTION = "sts:AssumeRoleWithWebIdentity"
ISSUER = "token.actions.githubusercontent.com"


def trusts(document: str, claims: Mapping[str, str]) -> bool:
    """Whether a token of GitHub with these claims may assume the role.

    Raises:
        KeyError: an operator or an effect that is not understood.
    """
    effects = {
        one["Effect"] for one in statements(document) if _is_meant(one) and _holds(one, claims)
    }
    if unknown := effects - {"Allow", "Deny"}:
        raise KeyError(unknown.pop())
    return effects == {"Allow"}  # an explicit Deny outweighs every Allow


def _is_meant(statement: Mapping[str, Any]) -> bool:
    federated = str(statement["Principal"].get("Federated", ""))
    return ACTION in statement["Action"] and federated.endswith(f":oidc-provider/{ISSUER}")


def _holds(statement: Mapping[str, Any], claims: Mapping[str, str]) -> bool:
    """All conditions, and of the values of each any; a claim that is not there matches none."""
    return all(
        any(
            _OPERATORS[operator](value, claims.get(key.removeprefix(f"{ISSUER}:")))
            for value in _list(values)
        )
        for operator, condition in statement.get("Condition", {}).items()
        for key, values in condition.items()
    )


def _is_like(pattern: str, claim: str | None) -> bool:
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(letter, re.escape(letter)) for letter in pattern)
    return claim is not None and re.fullmatch(expression, claim, re.DOTALL) is not None


_OPERATORS: Mapping[str, Callable[[str, str | None], bool]] = {
    "StringEquals": lambda value, claim: value == claim,
    "StringLike": _is_like,
}


def _list(values: str | list[str]) -> list[str]:
    return [values] if isinstance(values, str) else values
