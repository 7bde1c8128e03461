"""Looks for unsafe Python by bandit: `bazel test //tools/checks:bandit_test`.

All that bandit finds counts: of the product from its lowest severity on, of the tests from medium.
What is safe after all is excused where it stands, by the name of the check and a reason:

    weights = torch.load(path)  # nosec B614 # written by our parent process

Exit codes: 0 nothing found, 1 findings or an excuse without a reason.
"""

from __future__ import annotations

import logging
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence, Set
from tokenize import COMMENT

from bandit.core.config import BanditConfig
from bandit.core.constants import LOW, MEDIUM
from bandit.core.manager import BanditManager

NOT_ASKED = {
    "B101": "an assert tells the type checker what holds, and tests are made of them",
    "B105": "passwords are what secret_scan.py looks for, with fewer false alarms",
    "B106": "as B105",
    "B311": "random numbers choose images and order; keys come from `secrets`",
    "B404": "processes are started on purpose",
    "B603": "a list of arguments without a shell is the safe way; B602 finds the others",
    "B607": "a developer's PATH says which git and npm are meant",
}
NOT_ASKED_OF_TESTS = {
    "B108": "the temp folder of a container under test, and names that nobody opens",
    "B310": "the tests' own servers",
    "B314": "XML that the test has just made",
    "B614": "PyTorch's weights-only reader, of files that the test has just written",
}
# The bytes of these files name the folder of the provisioned Bazel: a comment there would make
# everybody provision it again.
EXCUSED = {
    ("tools/provision/trust.py", "B324"): "SHA-1 is what the format of Java's trust store asks for",
}
_EXCUSE = re.compile(r"#\s*nosec\b(?P<checks>[^#\n]*)(?:#(?P<reason>.*))?")
_FORM = "# nosec B614 # why it is safe"


def findings(files: Sequence[str]) -> Iterator[str]:
    """One line per finding, as compilers write them."""
    tests = [file for file in files if file.startswith("tests/")]
    product = [file for file in files if not file.startswith("tests/")]
    yield from _issues(product, NOT_ASKED.keys(), LOW)
    yield from _issues(tests, NOT_ASKED.keys() | NOT_ASKED_OF_TESTS.keys(), MEDIUM)
    for file in files:
        yield from _bare_excuses(file)


def _issues(files: Sequence[str], skipped: Set[str], severity: str) -> Iterator[str]:
    manager = BanditManager(BanditConfig(), "file", profile={"exclude": set(skipped)})
    manager.discover_files(list(files))
    manager.run_tests()
    for file, reason in manager.skipped:
        yield f"{file}: not read: {reason}"
    for issue in manager.get_issue_list(severity, LOW):
        file = issue.fname.removeprefix("./")
        if (file, issue.test_id) not in EXCUSED:
            yield f"{file}:{issue.lineno}: {issue.test_id} ({issue.severity}) {issue.text}"


def _bare_excuses(file: str) -> Iterator[str]:
    with tokenize.open(file) as source:
        comments = [t for t in tokenize.generate_tokens(source.readline) if t.type == COMMENT]
    for token in comments:
        if excuse := _EXCUSE.search(token.string):
            if not re.search(r"\bB\d{3}\b", excuse["checks"]):
                yield f"{file}:{token.start[0]}: nosec must name its check: {_FORM}"
            elif len((excuse["reason"] or "").strip()) < 3:
                yield f"{file}:{token.start[0]}: nosec must give a reason: {_FORM}"


def main(files: Sequence[str]) -> int:
    logging.disable(logging.WARNING)  # of an excuse that covers two lines it speaks twice
    found = list(findings(files))
    for line in found:
        print(line)
    print(f"bandit: {len(found) or 'nothing'} found in {len(files)} files", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
