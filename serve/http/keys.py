"""API keys, stored as digests.

A key is 32 random bytes, so plain SHA-256 is enough: slow hashes protect guessable secrets.
"""

import hashlib
import hmac
import secrets
import sys
from collections.abc import Sequence

from starlette.types import Scope

from serve.errors import Unauthorized
from serve.http.middleware import header, is_invoked


def new_key() -> tuple[str, str]:
    """(key for the caller, digest for KILN_API_KEYS)."""
    key = "kiln_" + secrets.token_urlsafe(32)
    return key, digest_of(key.encode())


def digest_of(key: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()


_CHALLENGE = 'Bearer realm="kiln"'


class KeyRing:
    """Admits requests that carry one of the keys; all requests if there are none."""

    def __init__(self, digests: Sequence[str]) -> None:
        self._digests = tuple(digests)

    def check(self, scope: Scope) -> None:
        """Checks X-API-Key and Authorization: Bearer.

        Raises:
            Unauthorized: the key is missing or unknown.
        """
        if self._digests:
            self.caller(scope)

    def caller(self, scope: Scope) -> str:
        """The digest of the request's key; "" for the release manager, which needs none.

        Raises:
            Unauthorized: the key is missing or unknown, or the service has no keys.
        """
        if is_invoked(scope):
            return ""
        if not self._digests:
            raise Unauthorized(
                "this service has no API keys (KILN_API_KEYS), which identify callers",
                headers={"www-authenticate": _CHALLENGE},
            )
        key = header(scope, b"x-api-key") or _bearer(header(scope, b"authorization") or b"")
        found = digest_of(key)
        # All digests are compared in constant time.
        matches = [hmac.compare_digest(found, digest) for digest in self._digests]
        if not any(matches):
            said = "the API key is unknown" if key else "the API key is missing"
            raise Unauthorized(
                f"{said}: send it as the header X-API-Key",
                field="x-api-key",
                headers={"www-authenticate": _CHALLENGE},
            )
        return found


def _bearer(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def main(arguments: Sequence[str]) -> None:
    """Prints a new key and its configuration."""
    import argparse  # the service does without it

    argparse.ArgumentParser(
        prog="bazel run //serve:new_key --",
        description="Prints a new API key, for its caller alone, and what KILN_API_KEYS says of it "
        "to the service: a digest; several are separated by commas.",
    ).parse_args(arguments)
    key, digest = new_key()
    sys.stdout.write(f"key, for the caller only:  {key}\nKILN_API_KEYS={digest}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
