"""The training image's entry and its layer of code; the whole image is built on request."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

LAYER = Path(os.environ.get("LAYER", ""))

pytestmark = pytest.mark.skipif(
    not LAYER.is_file(), reason="built by Bazel: bazel test //tests/ml/train_image:test_boot"
)


def test_the_layer_holds_the_program_and_its_configuration_alone() -> None:
    with tarfile.open(LAYER) as layer:
        names = set(layer.getnames())
    assert {"srv/kiln/ml/commands/train.py", "srv/kiln/configs/train.yaml"} <= names
    assert "srv/kiln/ml/commands/__pycache__/train.cpython-311.pyc" in names
    folders = {name.split("/")[2] for name in names if name.count("/") >= 2}
    assert folders == {"common", "configs", "ml", "requirements_lock.txt"}
    parts = {name.split("/")[3] for name in names if name.startswith("srv/kiln/ml/")}
    # The registry is there for `init_from=registry:ALIAS`.
    assert not parts & {"behaviour", "bundled", "drift", "pipeline", "rules", "sweep"}
    assert not any(name.endswith((".onnx", ".bin")) for name in names)


def test_the_entry_trains_as_the_command_does(tmp_path: Path) -> None:
    with tarfile.open(LAYER) as layer:
        layer.extractall(tmp_path / "root", filter="data")
    # The packages are those of this test: it depends on the same library as the image's layers.
    own_tree = os.path.abspath(__file__).removesuffix("tests/ml/train_image/test_boot.py")
    packages = [path for path in sys.path if path.rstrip("/") != own_tree.rstrip("/")]
    program = f"import sys; sys.path += {packages!r}; sys.argv = [sys.argv[1], *sys.argv[2:]];"
    program += "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    boot = tmp_path / "root/srv/kiln/ml/train_image/boot.py"
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", program, boot, "data.batch_size=none"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert "batch_size" in done.stderr
