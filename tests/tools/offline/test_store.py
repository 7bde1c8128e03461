"""The machine-wide installation, with the real uv on wheels made here."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.programs import wheel_program
from tools.offline.pypi_hub import build_files, hub
from tools.offline.pypi_hub.distribution import HubError
from tools.offline.pypi_hub.hub import installation, link


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setattr(hub, "find_uv", lambda pins, cache: wheel_program("uv"))
    return folder


def make_wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    """A wheel of version 1.0 in ``folder``; its line for a lock."""
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, content in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(inside, content)
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_a_lock_is_installed_compiled_and_described(wheels: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(make_wheel(wheels, "apple", {"apple/__init__.py": "colour = 'red'\n"}))

    made = installation(lock, {}, tmp_path / "cache")

    assert (made / "apple" / "BUILD.bazel").is_file()
    assert '"apple/__init__.py"' in (made / "site-packages" / "BUILD.bazel").read_text()
    compiled = (
        made / "site-packages/apple/__pycache__" / f"__init__.{sys.implementation.cache_tag}.pyc"
    )
    assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 0b01  # hash-based, unchecked


def test_a_second_clone_gets_links_to_the_same_files(wheels: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(make_wheel(wheels, "apple", {"apple.py": ""}))
    made = installation(lock, {}, tmp_path / "cache")
    (wheels / "apple-1.0-py3-none-any.whl").unlink()  # nothing is installed again

    link(installation(lock, {}, tmp_path / "cache"), tmp_path / "hub")

    assert os.path.samefile(
        tmp_path / "hub/site-packages/apple.py", made / "site-packages/apple.py"
    )


def test_a_program_imports_from_the_disk_what_it_declares_alone(
    wheels: Path, tmp_path: Path
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(
        make_wheel(wheels, "apple", {"fruit/apple.py": "", "apple.py": "import fruit.apple"})
        + make_wheel(wheels, "pear", {"fruit/pear.py": ""})
    )
    hub = tmp_path / "hub"
    link(installation(lock, {}, tmp_path / "cache"), hub)
    declared = tmp_path / "program.runfiles/hub"  # as Bazel links it, with the digest of one
    for file in ("on_disk/sitecustomize.py", "apple/digest"):
        (declared / file).parent.mkdir(parents=True)
        (declared / file).symlink_to(hub / file)

    def imported(module: str) -> bool:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            env={"PYTHONPATH": str(declared / "on_disk")},
            stderr=subprocess.DEVNULL,
        )
        return done.returncode == 0

    assert [imported(name) for name in ("apple", "fruit.apple", "fruit.pear")] == [
        True,
        True,
        False,
    ]


def test_another_sitecustomize_runs_as_well(tmp_path: Path) -> None:
    place = tmp_path / "program.runfiles/hub/on_disk"
    place.mkdir(parents=True)
    (place / "sitecustomize.py").symlink_to(Path(build_files.__file__).parent / "sitecustomize.py")
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ['RAN'] = 'yes'\n")
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.environ.get('RAN'))"],
        env={"PYTHONPATH": f"{place}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "yes\n", done.stderr


def test_the_digest_follows_every_byte_of_a_distribution(wheels: Path, tmp_path: Path) -> None:
    digests = set()
    for content in ("a = 1", "a = 2", "a = 1"):
        lock = tmp_path / f"{len(content)}.txt"
        lock.write_text(make_wheel(wheels, "apple", {"apple.py": content}))
        made = installation(lock, {}, tmp_path / "cache")
        digests.add((made / "apple" / "digest").read_text())
    assert len(digests) == 2


def test_a_changed_lock_is_another_installation(wheels: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(make_wheel(wheels, "apple", {"apple.py": ""}))
    before = installation(lock, {}, tmp_path / "cache")
    lock.write_text(lock.read_text() + make_wheel(wheels, "pear", {"pear.py": ""}))

    after = installation(lock, {}, tmp_path / "cache")

    assert after != before
    assert (after / "site-packages" / "pear.py").is_file()


def test_a_wrong_hash_names_the_package_and_leaves_nothing(wheels: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    make_wheel(wheels, "apple", {"apple.py": ""})
    lock.write_text(f"apple==1.0 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(HubError, match=r"[Hh]ash mismatch for `apple==1\.0`"):
        installation(lock, {}, tmp_path / "cache")

    assert list((tmp_path / "cache" / "pypi").iterdir()) == []


def test_the_program_says_what_is_wrong_with_a_lock(wheels: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("six==1.17.0\n")
    command = [sys.executable, hub.__file__, "--lock", str(lock), "--output", str(tmp_path / "hub")]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 1
    assert {"six", "--hash"} <= set(done.stderr.replace(";", " ").split())
