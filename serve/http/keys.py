"""API keys, stored as digests.

A key is 32 random bytes, so a plain SHA-256 keeps it: a slow hash protects what can be guessed.
"""

import hashlib
import hmac
import secrets
import sys
from collections.abc import Sequence

from starlette.types import Scope

from serve.errors import Unauthorized
from serve.http.middleware import header


def new_key() -> tuple[str, str]:
    """(key for the caller, digest for KILN_API_KEYS)."""
    key = "kiln_" + secrets.token_urlsafe(32)
    return key, digest_of(key.encode())


def digest_of(key: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()


class KeyRing:
    """Admits requests that carry one of the keys, or all requests if there are no keys."""

    def __init__(self, digests: Sequence[str]) -> None:
        self._digests = tuple(digests)

    def check(self, scope: Scope) -> None:
        """Looks at X-API-Key and at Authorization: Bearer.

        Raises:
            Unauthorized: there is no key, or it is another.
        """
        if not self._digests or _is_invoked(scope):
            return
        key = header(scope, b"x-api-key") or _bearer(header(scope, b"authorization") or b"")
        found = digest_of(key)
        # Every digest is compared, so that the time says nothing about which one was close.
        matches = [hmac.compare_digest(found, digest) for digest in self._digests]
        if not any(matches):
            said = "this API key is not known" if key else "there is no API key"
            raise Unauthorized(
                f"{said}: send it as the header X-API-Key",
                field="x-api-key",
                headers={"www-authenticate": 'Bearer realm="kiln"'},
            )


# What the release manager names as the domain of its events; no front door has such a domain.
RELEASE_MANAGER = "release-manager"


def _is_invoked(scope: Scope) -> bool:
    """Whether the Lambda function was invoked by itself, which IAM allows whom it allows.

    The context of an event is written by the front door that a request came through (API Gateway,
    function URL, load balancer) with its own domain, and nothing that a caller sends is part of it.
    """
    context = scope.get("aws.event", {}).get("requestContext") or {}
    return bool(context.get("domainName") == RELEASE_MANAGER)


def _bearer(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def main() -> None:
    """Prints a new key and what to configure."""
    key, digest = new_key()
    sys.stdout.write(f"key, for the caller only:  {key}\nKILN_API_KEYS={digest}\n")


if __name__ == "__main__":
    main()
