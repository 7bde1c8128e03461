"""Health check of the container: exit code 0 if the server is ready.

It asks at the port that the server was started with: the option --port of the container's first
process, else the variable KILN_PORT, else 8000.
"""

import os
import re
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

_SERVER = Path("/proc/1/cmdline")
_OPTION = re.compile(rb"(?:^|\0)--port(?:=|\0)([0-9]{1,5})(?=\0|$)")  # the last one counts


def main(server: Path = _SERVER) -> int:
    """Asks once; whoever calls repeats it."""
    url = f"http://127.0.0.1:{_port(server)}/ready"
    try:
        with urlopen(url, timeout=5):
            return 0
    except URLError as error:  # also an answer that is no success
        print(f"{url}: {error}", file=sys.stderr)
        return 1


def _port(server: Path) -> int:
    try:
        options = _OPTION.findall(server.read_bytes())
    except OSError:  # hidden from this user
        options = []
    return int(options[-1]) if options else int(os.environ.get("KILN_PORT") or 8000)


if __name__ == "__main__":
    sys.exit(main())
