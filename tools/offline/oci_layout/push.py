"""Push an image layout to a registry by its digest, then tag it there."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crane", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--remote-tags", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--repository-file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-r", "--repository", help="registry and path, without a tag")
    parser.add_argument("-t", "--tag", action="append", default=[], help="besides the fixed tags")
    parser.add_argument("--insecure", action="store_true", help="a registry without TLS")
    options, others = parser.parse_known_args(arguments)
    if options.repository_file:
        options.repository = options.repository or options.repository_file.read_text().strip()
    if not options.repository:
        parser.error("no repository: pass --repository")
    return push(options, others)


def push(options: argparse.Namespace, others: Sequence[str]) -> int:
    index = json.loads((options.image / "index.json").read_bytes())
    reference = f"{options.repository}@{index['manifests'][0]['digest']}"
    crane = [str(options.crane), *(["--insecure"] if options.insecure else [])]
    code = subprocess.run([*crane, "push", str(options.image), reference, *others]).returncode
    tags = list(options.tag)
    if options.remote_tags:
        tags += options.remote_tags.read_text(encoding="utf-8").split()
    for tag in tags:
        code = code or subprocess.run([*crane, "tag", reference, tag]).returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
