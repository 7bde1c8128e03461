"""Serves the documentation site on loopback: `bazel run //docs:serve`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Exits with 2 if the port is taken."""
    parser = argparse.ArgumentParser(description=__doc__, prog="bazel run //docs:serve --")
    parser.add_argument("--site", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=8001, help="0: any free one; default: 8001")
    options = parser.parse_args(arguments)
    handler = partial(_Quiet, directory=options.site)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", options.port), handler)
    except OSError as error:
        print(f"docs: port {options.port}: {error.strerror}; try --port 0", file=sys.stderr)
        return 2
    with server, suppress(KeyboardInterrupt):
        print(f"docs: http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
