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
    """Admits requests that carry one of the keys, or all requests if there are no keys."""

    def __init__(self, digests: Sequence[str]) -> None:
        self._digests = tuple(digests)

    def check(self, scope: Scope) -> None:
        """Looks at X-API-Key and at Authorization: Bearer.

        Raises:
            Unauthorized: there is no key, or it is another.
        """
        if self._digests:
            self.caller(scope)

    def caller(self, scope: Scope) -> str:
        """The digest of the request's key; "" of the release manager, who needs none.

        Raises:
            Unauthorized: there is no key, or it is another; or the service has none.
        """
        if is_invoked(scope):
            return ""
        if not self._digests:
            raise Unauthorized(
                "this service has no API keys (KILN_API_KEYS), without which it cannot tell who "
                "says what",
                headers={"www-authenticate": _CHALLENGE},
            )
        key = header(scope, b"x-api-key") or _bearer(header(scope, b"authorization") or b"")
        found = digest_of(key)
        # Every digest is compared, so that the time says nothing about which one was close.
        matches = [hmac.compare_digest(found, digest) for digest in self._digests]
        if not any(matches):
            said = "this API key is not known" if key else "there is no API key"
            raise Unauthorized(
                f"{said}: send it as the header X-API-Key",
                field="x-api-key",
                headers={"www-authenticate": _CHALLENGE},
            )
        return found


def _bearer(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def main() -> None:
    """Prints a new key and what to configure."""
    key, digest = new_key()
    sys.stdout.write(f"key, for the caller only:  {key}\nKILN_API_KEYS={digest}\n")


if __name__ == "__main__":
    main()
