"""Tell-tale signs of secrets in files, variables and histories."""

from __future__ import annotations

import re

SECRET_FILE = re.compile(
    r"(?:.*/)?(?:\.env(?:\.[^/]*)?|\.netrc|\.pypirc|\.npmrc|\.git(?:/.*)?|\.git-credentials"
    r"|id_(?:rsa|ed25519|ecdsa)"
    r"|\.aws/(?:credentials|config)|\.docker/config\.json|credentials\.json|.*\.(?:key|p12|pfx|jks))"
)
_CONTENT = {
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}"),
    "an AWS access key": re.compile(
        rb"(?<![A-Z0-9])(?:AKIA|ASIA)(?!.{9}EXAMPLE)[A-Z0-9]{16}(?![A-Z0-9])"
    ),
    "a GitHub token": re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{60,}"),
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z]{34}\b"),
    "a Slack token": re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}"),
    "an API key of this service": re.compile(rb"\bkiln_[\w-]{43}\b"),
}
_NAME = re.compile(
    r".*(?:SECRET|PASSW(?:OR)?D|TOKEN|CREDENTIAL|PRIVATE|ACCESS_KEY|API_?KEY).*", re.I
)


def secret_in(content: bytes) -> str | None:
    """What it looks like, None if it looks harmless."""
    for name, pattern in _CONTENT.items():
        if pattern.search(content):
            return f"contains what looks like {name}"
    return None


def secret_variable(entry: str) -> str | None:
    """The same of ``NAME=value``; a name that promises a secret must be empty."""
    name, _, value = entry.partition("=")
    if value and _NAME.fullmatch(name):
        return f"{name} has a value"
    reason = secret_in(value.encode())
    return f"{name} {reason}" if reason else None
