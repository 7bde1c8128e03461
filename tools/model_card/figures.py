"""Measures what a pull request may affect, into a JSON file.

Accuracy is that of the bundled model in the served precision, INT8 if available; sizes, latency,
cold start and image layers are those of this workspace's build, or of another revision's (`--at`),
in a separate work tree.

  bazel run //tools:model_card_figures -- --output /tmp/head.json
  bazel run //tools:model_card_figures -- --at origin/main --output /tmp/base.json

Run it on an otherwise idle machine; compare only files of the same machine.

Exit codes: 0 written, 1 the build or a measurement failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from common.command_line import command_parser
from common.files import user_path, workspace_folder
from common.oci import read_image

METRICS = "ml/bundled/metrics.json"
CALLERS = "1"  # a single client: latency without queueing
SECONDS, STARTS = "5", "7"
BAD_INPUT = 2  # exit code


class MeasureError(Exception):
    """No figures; the message says which step failed."""


def measure(workspace: Path) -> dict[str, Any]:
    """Builds and measures the workspace.

    Raises:
        MeasureError: a step failed.
    """
    metrics = json.loads((workspace / METRICS).read_text(encoding="utf-8"))
    served, precision = (metrics["int8"], "int8") if "int8" in metrics else (metrics, "fp32")
    with tempfile.TemporaryDirectory(prefix="kiln-") as folder:
        load, starts = Path(folder, "load.json"), Path(folder, "starts.json")
        _bazel(workspace, "build", "//serve:image", "//serve:model")
        _bazel(
            workspace, "run", "//serve:benchmark", "--", "--seconds", SECONDS, "--json", str(load)
        )
        _bazel(
            workspace, "run", "//serve:cold_start", "--", "--rounds", STARTS, "--json", str(starts)
        )
        [result] = json.loads(load.read_text())["results"]
        cold = json.loads(starts.read_text())["function"]
    return {
        "revision": _git(workspace, "rev-parse", "--short=12", "HEAD"),
        "test": served["test"],
        "model_version": metrics["provenance"][precision]["version"],
        "onnx_bytes": metrics["model_bytes"],
        "int8_bytes": metrics.get("int8", {}).get("model_bytes"),
        "p50_ms": result["closed"][CALLERS]["p50_ms"],
        "p99_ms": result["closed"][CALLERS]["p99_ms"],
        "cold_start_ms": 1000 * median(start["wall_s"] for start in cold),
        "layers": read_layers(_output(workspace, "//serve:image")),
    }


def read_layers(layout: Path) -> list[dict[str, Any]]:
    """Digest, compressed bytes and name of each layer of a layout's only image, bottom first."""
    image = read_image(layout)
    history = [one for one in image.config.get("history", []) if not one.get("empty_layer")]
    layers = []
    for number, layer in enumerate(image.manifest["layers"]):
        made_by = history[number].get("created_by", "") if number < len(history) else ""
        name = made_by.rpartition(":")[2] or f"layer {number + 1}"
        layers.append({"digest": layer["digest"], "bytes": layer["size"], "name": name})
    return layers


def _output(workspace: Path, target: str) -> Path:
    told = _bazel(workspace, "cquery", "--output=files", target)
    root = _bazel(workspace, "info", "execution_root").strip()
    return Path(root, told.split()[-1])


def _bazel(workspace: Path, *command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BUILD_")}
    done = subprocess.run(
        [str(workspace / "tools/bazel"), *command],
        cwd=workspace,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise MeasureError(f"bazel {' '.join(command)} failed with {done.returncode}")
    return done.stdout


def _git(workspace: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=workspace, capture_output=True, text=True)
    if done.returncode:
        raise MeasureError(done.stderr.strip() or f"git {' '.join(command)} failed")
    return done.stdout.strip()


@contextmanager
def clone_at(workspace: Path, revision: str) -> Iterator[Path]:
    """A temporary work tree of the revision, with this user's or workflow's flags."""
    with tempfile.TemporaryDirectory(prefix="kiln-") as folder:
        place = Path(folder, "base")
        _git(workspace, "worktree", "add", "--quiet", "--detach", str(place), revision)
        try:
            flags = workspace / ".bazelrc.user"
            if flags.is_file():
                (place / ".bazelrc.user").write_text(flags.read_text())
            yield place
            subprocess.run([str(place / "tools/bazel"), "shutdown"], cwd=place)
        finally:
            _git(workspace, "worktree", "remove", "--force", str(place))


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    workspace = workspace_folder()
    place = user_path(options.output)
    try:
        if options.at:
            with clone_at(workspace, options.at) as base:
                found = measure(base)
        else:
            found = measure(workspace)
        place.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    except MeasureError as error:
        print(f"figures: {error}", file=sys.stderr)
        return 1
    except (OSError, KeyError, ValueError) as error:
        print(f"figures: {type(error).__name__}: {error}", file=sys.stderr)
        return BAD_INPUT
    print(f"figures: wrote {place}")
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:model_card_figures", __doc__)
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON file for the comment")
    parser.add_argument(
        "--at", metavar="REVISION", help="measure this revision instead of the workspace"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
