"""Opens the store that KILN_CAPTURE names, without what does not belong into the image."""

import os
from urllib.parse import urlsplit

from common.files import user_path
from common.objects import FolderStore, Store


def open_place(url: str) -> Store:
    """The folder or the bucket of a URL or a path; nothing is asked of it yet."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from serve.capture.s3 import Bucket

        return Bucket.from_environment(parts.netloc, parts.path, os.environ)
    return FolderStore(user_path(parts.path if parts.scheme == "file" else url))
