"""The table of docs/threat-model.md counts the attacks that there are."""

import re
from pathlib import Path

from tests.serve.abuse.attacks import AREAS, GROWTH_MB

PAGE = Path("docs/threat-model.md").read_text(encoding="utf-8")
_, _, SECTION = PAGE.partition("## Abuse, as tested\n")


def test_the_counts_are_those_of_the_tables() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \|", SECTION, re.MULTILINE)
    assert {area: int(count) for area, count in rows[:-1]} == AREAS
    assert rows[-1] == ("all", str(sum(AREAS.values())))


def test_the_memory_is_that_of_the_test() -> None:
    assert f"less than {GROWTH_MB} MB" in SECTION
