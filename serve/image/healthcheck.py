"""Health check of the container: exit code 0 if the server is ready."""

import os
import sys
from urllib.error import URLError
from urllib.request import urlopen


def main() -> int:
    """Asks once; whoever calls repeats it."""
    url = f"http://127.0.0.1:{os.environ.get('KILN_PORT') or 8000}/ready"
    try:
        with urlopen(url, timeout=5):
            return 0
    except URLError as error:  # also an answer that is no success
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
