"""Posts a release's outcome to Slack's webhook in the variable SLACK_WEBHOOK_URL.

  bazel run //tools:slack -- --title "Release v1" --results '{"staging": {"result": "success"}}'

`--results` is GitHub Actions' toJSON(needs). The address is a secret and is never printed.

Exit codes: 0 sent, or no address is set; 1 not sent, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from common.command_line import command_parser

_MARKS = {"success": ":white_check_mark:", "failure": ":x:", "cancelled": ":warning:"}
_PATIENCE_S = 15


def message(title: str, results: Mapping[str, str], link: str) -> dict[str, Any]:
    """The payload for Slack's incoming webhooks."""
    bad = [name for name, result in results.items() if result not in ("success", "skipped")]
    lines = [
        f"{_MARKS.get(result, ':grey_question:')} {name}: {result}"
        for name, result in results.items()
    ]
    verdict = f"failed at {', '.join(bad)}" if bad else "done"
    text = f"*{title}*: {verdict}"
    body = "\n".join([text, *lines, *([f"<{link}|the run>"] if link else [])])
    section = {"type": "section", "text": {"type": "mrkdwn", "text": body}}
    return {"text": text, "blocks": [section]}


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    try:
        needs = json.loads(options.results)
        results = {name: str(need["result"]) for name, need in needs.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        print('slack: expected --results \'{"staging": {"result": "success"}}\'', file=sys.stderr)
        return 2
    address = os.environ.get("SLACK_WEBHOOK_URL", "")
    if not address:
        print("slack: SLACK_WEBHOOK_URL is not set: nothing is sent")
        return 0
    if not address.startswith(("https://", "http://127.0.0.1:")):
        print("slack: SLACK_WEBHOOK_URL is not an https address", file=sys.stderr)
        return 2
    body = json.dumps(message(options.title, results, options.link)).encode()
    request = Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 # see above
    try:
        with urlopen(request, timeout=_PATIENCE_S):  # noqa: S310 # https, see above
            pass
    except (URLError, TimeoutError, OSError) as error:
        print(f"slack: not sent: {getattr(error, 'reason', error)}", file=sys.stderr)
        return 1
    print("slack: sent")
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:slack", __doc__)
    parser.add_argument("--title", required=True)
    parser.add_argument("--results", default="{}", metavar="JSON", help="name → result")
    parser.add_argument("--link", default="", metavar="URL", help="link for details")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
