from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from ml.data.cifar10_files import Pin, Progress, entry_folder
from ml.data.fetch import FetchError, default_sources, fetch
from ml.data.source import SourceError
from tests.ml.data.tiny_dataset import FakeSource, tiny_dataset

DATA = tiny_dataset()


def good(name: str = "good") -> FakeSource:
    return FakeSource(name, lambda pin, folder: _discard(DATA.write_files(folder)))


def failing(name: str, error: Exception) -> FakeSource:
    def fail(pin: Pin, folder: Path) -> None:
        (folder / "train.bin").write_bytes(DATA.train)
        raise error

    return FakeSource(name, fail)


def wrong(name: str, change: Callable[[Path], None]) -> FakeSource:
    def act(pin: Pin, folder: Path) -> None:
        change(DATA.write_files(folder))

    return FakeSource(name, act)


def _discard(value: object) -> None:
    """For lambdas whose value nobody wants."""


def run(cache: Path, *sources: FakeSource, output: Path | None = None) -> tuple[Path, str]:
    """Fetch, and what it said."""
    said = io.StringIO()
    folder = fetch(DATA.pin, sources, cache=cache, output=output, progress=Progress(said))
    return folder, said.getvalue()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_first_source_that_delivers_is_used(tmp_path: Path) -> None:
    unused = failing("unused", AssertionError("asked although another delivered"))
    folder, _ = run(tmp_path, good(), unused)
    DATA.pin.check(folder)
    assert folder == entry_folder(DATA.pin, tmp_path)


def test_a_source_that_fails_says_why_and_the_next_is_tried(tmp_path: Path) -> None:
    folder, said = run(tmp_path, failing("first", SourceError("is\nclosed today")), good("second"))
    DATA.pin.check(folder)
    assert "first: is closed today\n" in said
    assert "fetched from second" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "test.bin").write_bytes(b"x"), "test.bin is not the pinned file"),
        (lambda folder: (folder / "train.bin").unlink(), "train.bin is missing"),
        (lambda folder: _truncate(folder / "train.bin"), "train.bin is not the pinned file"),
    ],
)
def test_wrong_bytes_are_refused_with_the_hashes_and_the_next_source_is_tried(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder, said = run(tmp_path, wrong("first", change), good("second"))
    DATA.pin.check(folder)
    assert f"first: {message}" in said
    assert "expected md5" in said


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_when_all_fail_one_error_lists_each_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as error:
        run(tmp_path, failing("a", SourceError("is shut")), failing("b", OSError("disk full")))
    message = str(error.value)
    assert "  a: is shut\n  b: disk full\n" in message
    assert "KILN_DVC_REMOTE" in message


def test_nothing_half_written_stays_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(FetchError):
        run(tmp_path, failing("a", SourceError("breaks off")))
    assert [name for name in names(tmp_path) if not name.endswith(".lock")] == []


def test_a_second_fetch_asks_no_source(tmp_path: Path) -> None:
    first, _ = run(tmp_path, good())
    second, said = run(tmp_path)
    assert (first, "") == (second, said)


def test_a_damaged_entry_is_told_and_fetched_again(tmp_path: Path) -> None:
    folder, _ = run(tmp_path, good())
    (folder / "train.bin").chmod(0o644)
    (folder / "train.bin").write_bytes(b"damaged")
    again, said = run(tmp_path, good())
    DATA.pin.check(again)
    assert f"{folder}/train.bin is not the pinned file" in said
    assert names(tmp_path) == {folder.name, f".{folder.name}.lock"}


def test_the_output_folder_gets_both_files(tmp_path: Path) -> None:
    folder, _ = run(tmp_path / "cache", good(), output=tmp_path / "output")
    assert folder == tmp_path / "output"
    DATA.pin.check(folder)


def test_two_pins_live_side_by_side(tmp_path: Path) -> None:
    other = tiny_dataset(seed=1)
    source = FakeSource("other", lambda pin, folder: _discard(other.write_files(folder)))
    run(tmp_path, good())
    fetch(other.pin, [source], cache=tmp_path, progress=Progress(io.StringIO()))
    DATA.pin.check(entry_folder(DATA.pin, tmp_path))
    other.pin.check(entry_folder(other.pin, tmp_path))


def test_the_sources_are_tried_from_the_teams_own_to_the_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [source.name for source in default_sources()] == ["dvc", "official", "npm"]


def test_progress_redraws_on_a_terminal_and_ends_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    for stream, expected in (
        (Terminal(), "\r\x1b[Kcifar10: copying: 5 of 10 MB (50%)\ncifar10: done\n"),
        (io.StringIO(), "cifar10: copying: 5 of 10 MB (50%)\ncifar10: done\n"),
    ):
        progress = Progress(stream)
        progress.step("copying", 5, 10)
        progress.say("done")
        assert stream.getvalue() == expected
