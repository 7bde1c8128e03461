"""Container health check: exit code 0 if the server is ready.

The port is the --port option of the container's first process, else KILN_PORT, else 8000.
"""

import os
import re
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

_SERVER = Path("/proc/1/cmdline")
_OPTION = re.compile(rb"(?:^|\0)--port(?:=|\0)([0-9]{1,5})(?=\0|$)")  # the last one wins


def main(server: Path = _SERVER) -> int:
    """One attempt; the caller retries."""
    url = f"http://127.0.0.1:{_port(server)}/ready"
    try:
        with urlopen(url, timeout=5):
            return 0
    except URLError as error:  # including error responses
        print(f"{url}: {error}", file=sys.stderr)
        return 1


def _port(server: Path) -> int:
    try:
        options = _OPTION.findall(server.read_bytes())
    except OSError:  # not readable by this user
        options = []
    return int(options[-1]) if options else int(os.environ.get("KILN_PORT") or 8000)


if __name__ == "__main__":
    sys.exit(main())
