"""Which model version a container image holds: ``images/<digest>.json``, written by a release."""

from __future__ import annotations

import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from ml.registry.errors import Conflict, Damaged, RegistryError
from ml.registry.manifest import Act
from ml.registry.store import Store

PREFIX = "sha256:"

_FOLDER = "images/"
_DIGEST = re.compile(PREFIX + "[0-9a-f]{64}")
_READERS = 16


@dataclass(frozen=True)
class Image:
    """A container image and the model version inside it."""

    digest: str  # sha256:…
    version: str
    linked: Act
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # so that no two links are alike


class Images:
    """Links that never change, since an image does not."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, image: Image) -> tuple[Image, bool]:
        """Keeps a link.

        Returns:
            It, or the same link made earlier; and whether it is new.

        Raises:
            RegistryError: its digest is none.
            Conflict: the image is linked to another version.
        """
        if not _DIGEST.fullmatch(image.digest):
            raise RegistryError(
                f"{image.digest} is no image digest: expected {PREFIX} and 64 hexadecimal digits"
            )
        if self._store.create(_key(image.digest), f"{json.dumps(asdict(image))}\n".encode()):
            return image, True
        earlier = self._read(image.digest)
        if earlier.version != image.version:
            raise Conflict(
                f"{image.digest} holds version {earlier.version}, linked by {earlier.linked.who} "
                f"at {earlier.linked.when}: an image never changes its model"
            )
        return earlier, False

    def find(self, reference: str) -> Image:
        """The link of an image, by its digest or the start of one (``sha256:12ab``).

        Raises:
            RegistryError: it is not linked, or not the only one.
        """
        found = self.digests(reference)
        if len(found) != 1:
            cure = "give more digits" if found else "`link` records which version an image holds"
            raise RegistryError(
                f"{reference} fits {len(found)} images in {self._store.url}: {cure}"
            )
        return self._read(found[0])

    def digests(self, start: str = "") -> list[str]:
        """All linked images whose digest begins with this, sorted."""
        stored = self._store.entries(f"{_FOLDER}{start.removeprefix(PREFIX)}")
        return [PREFIX + s.key.removeprefix(_FOLDER).removesuffix(".json") for s in stored]

    def all(self) -> list[Image]:
        """Every link, oldest first."""
        with ThreadPoolExecutor(_READERS) as pool:
            return sorted(pool.map(self._read, self.digests()), key=lambda i: i.linked.when)

    def _read(self, digest: str) -> Image:
        key = _key(digest)
        try:
            values = json.loads(self._store.read(key))
            return Image(linked=Act(**values.pop("linked")), **values)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Damaged(f"{key} in {self._store.url} is no link ({exc!r}): restore it") from exc


def _key(digest: str) -> str:
    return f"{_FOLDER}{digest.removeprefix(PREFIX)}.json"
