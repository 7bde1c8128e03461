"""An action that can be watched while it runs."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.programs import python_environment
from ml.rules import watch

PROGRAM = """
import sys, time
from pathlib import Path
from ml.rules.action import shown_beside
with shown_beside(Path(sys.argv[1])):
    print("epoch 1")
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    print("epoch 2")
print("done")
"""


def _workspace(path: Path) -> tuple[Path, Path]:
    """A workspace with the link that Bazel makes, and the folder where an action's output goes."""
    base = path / "output_base"
    out = base / "execroot" / "_main" / "bazel-out"
    work = base / "sandbox" / "linux-sandbox" / "7" / "execroot" / "_main" / "bazel-out"
    folder = work / "k8-fastbuild" / "bin" / "ml" / "model" / "smoke-1"
    for made in (out, folder, path / "workspace"):
        made.mkdir(parents=True)
    (path / "workspace" / "bazel-out").symlink_to(out)
    return path / "workspace", folder


def test_what_an_action_prints_is_seen_while_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_PAUSE_S", 0.01)
    workspace, folder = _workspace(tmp_path)
    output, go_on = folder / "network.pt", tmp_path / "go_on"
    action = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(output), str(go_on)],
        env=python_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    base = watch.output_base(workspace)
    assert base is not None
    while (path := watch.running(base)) is None or "epoch 1" not in path.read_text():
        assert action.poll() is None
        time.sleep(0.01)
    watcher = threading.Thread(target=watch.follow, args=(path,))
    watcher.start()
    go_on.touch()
    printed, _ = action.communicate(timeout=60)
    watcher.join(timeout=60)
    assert capsys.readouterr().out.splitlines()[0] == "epoch 1"
    assert printed.splitlines() == ["epoch 1", "epoch 2", "done"]
    assert list(folder.iterdir()) == []


def test_without_a_training_the_watcher_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, _ = _workspace(tmp_path)
    assert watch.main(workspace) == 1
    assert capsys.readouterr().err
    assert watch.main(tmp_path / "workspace-without-builds") == 1
