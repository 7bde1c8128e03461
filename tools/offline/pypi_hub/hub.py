"""Fill a folder with the packages of a lock and with BUILD files that offer them to Bazel."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tools.offline.pypi_hub.distribution import HubError
from tools.offline.pypi_hub.lockfile import LockError
from tools.offline.pypi_hub.store import installation, link
from tools.provision.cache import ProvisionError, cache_root


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, required=True, help="requirements with hashes")
    parser.add_argument("--cycles", type=json.loads, default={}, help="JSON: group to its members")
    parser.add_argument("--output", type=Path, required=True, help="the folder to fill")
    options = parser.parse_args()
    try:
        link(installation(options.lock.resolve(), options.cycles, cache_root()), options.output)
    except (HubError, LockError, ProvisionError) as error:
        print(f"kiln: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
