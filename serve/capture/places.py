"""Opens the store that KILN_CAPTURE names, with only the dependencies that the image has."""

import os
from urllib.parse import urlsplit

from common.files import user_path
from common.objects import FolderStore, Store


def open_place(url: str) -> Store:
    """The store of a URL or a path; sends no request yet."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from serve.capture.s3 import Bucket

        return Bucket.from_environment(parts.netloc, parts.path, os.environ)
    return FolderStore(user_path(parts.path if parts.scheme == "file" else url))
