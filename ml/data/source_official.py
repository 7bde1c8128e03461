"""Source 2: the archive that the authors of CIFAR-10 publish. Standard library alone.

Of the published forms this is the binary one: the same records as the pickles that torchvision
downloads, without the need to execute a pickle.
"""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from ml.data.cifar10_pin import Pin, PinnedFile
from ml.data.source import OPEN_LIMIT_S, Progress, SourceError, download

_TRAIN = tuple(f"data_batch_{batch}.bin" for batch in range(1, 6))
_TEST = ("test_batch.bin",)
_ARCHIVE = PinnedFile("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171)


@dataclass(frozen=True)
class OfficialSource:
    """``archive`` carries the MD5 that the authors' page states."""

    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    archive: PinnedFile = _ARCHIVE
    open_limit_s: float = OPEN_LIMIT_S
    name: str = "official"

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        archive = folder / self.archive.name
        download(self.url, archive, self.archive.size, progress, open_limit_s=self.open_limit_s)
        self.archive.check(archive)
        progress.say(f"unpacking {archive.name}")
        batches = _read_batches(archive, largest=max(file.size for file in pin.files))
        for file, names in ((pin.train, _TRAIN), (pin.test, _TEST)):
            (folder / file.name).write_bytes(b"".join(batches[name] for name in names))


def _read_batches(archive: Path, largest: int) -> dict[str, bytes]:
    """The six batches, read into memory: nothing is unpacked, no path of the archive is used."""
    batches: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./").removeprefix("cifar-10-batches-bin/")
                if name in _TRAIN + _TEST and member.isfile() and member.size <= largest:
                    file = tar.extractfile(member)
                    batches[name] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as exc:
        raise SourceError(f"{archive.name} cannot be unpacked: {exc}") from exc
    if missing := sorted(set(_TRAIN + _TEST) - set(batches)):
        raise SourceError(f"{archive.name} lacks {', '.join(missing)}")
    return batches
