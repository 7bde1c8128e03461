"""Mirrors a run folder as a W&B run, in a separate process.

Started as ``python -m ml.tracking.wandb_mirror FOLDER online|offline DESTINATION``. It reports its
status as lines on standard output, ``connecting``, ``mirroring URL``, ``failed REASON`` and ``done
URL``, and runs until standard input ends: after the word ``finished`` the run completed, otherwise
it broke off.
"""

import json
import os
import re
import secrets
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from omegaconf import OmegaConf

from common.files import write_whole
from ml.runs.folder import RunFolder, read_rows
from ml.runs.provenance import read_provenance
from ml.tracking.wandb_logger import FOLDER, SYNCED, Destination

_LOOK_S = 1.0  # polling interval
_INIT_S = 30  # for the server's response
_FINISH_S = 300  # for the uploads


class WandbError(RuntimeError):
    """W&B cannot accept the run; the message says why."""


class WandbMirror:
    """A W&B run that follows one run folder. Mirroring a folder twice gives one run.

    Args:
        folder: of the run; W&B writes below its ``wandb/`` if the environment of
            `ml.tracking.wandb_logger.environment` is set.
        destination: project and the like.
        online: send at once; otherwise write W&B's files, for ``wandb sync`` on any machine.

    Raises:
        WandbError: the server is unreachable, or rejects the key.
    """

    def __init__(self, folder: RunFolder, destination: Destination, *, online: bool) -> None:
        self.folder = folder
        self.online = online
        self._mirrored = 0  # rows of metrics.jsonl
        config: Any = OmegaConf.to_container(folder.load_config())
        try:
            self._run = wandb.init(
                project=destination.project,
                entity=destination.entity,
                group=destination.group,
                tags=destination.tags,
                notes=destination.notes,
                id=run_id(folder),
                name=folder.path.name,
                job_type="train",
                mode="online" if online else "offline",
                resume="allow" if online else None,
                config={**config, "provenance": read_provenance(folder)},
                settings=_settings(),
            )
        except (wandb.errors.Error, TimeoutError, OSError) as exc:
            raise WandbError(_in_words(exc)) from exc
        self._done_step = self._run.step if online else 0  # sent by an earlier mirror

    def catch_up(self) -> None:
        """Sends new epochs of the folder."""
        rows = read_rows(self.folder.metrics)
        system = read_rows(self.folder.system)
        for index in range(self._mirrored, len(rows)):
            row, since = rows[index], rows[index - 1]["elapsed_s"] if index else 0.0
            if row["step"] > self._done_step:
                used = _means([r for r in system if since < r["elapsed_s"] <= row["elapsed_s"]])
                self._run.log(row | used, step=row["step"])
        self._mirrored = len(rows)

    def conclude(self) -> None:
        """Sends the results of a finished run: metrics, plots, mistakes, the model."""
        summary = json.loads(self.folder.summary.read_text(encoding="utf-8"))
        self._run.summary.update(_flat(summary))
        figures: dict[str, Any] = {
            f"plots/{path.stem}": wandb.Image(str(path))
            for path in sorted(self.folder.plots.glob("*.png"))
        }
        mistakes = [
            wandb.Image(str(path), caption=path.stem.replace("_", " "))
            for path in sorted(self.folder.mistakes.glob("*.png"))
        ]
        if mistakes:
            figures["worst_mistakes"] = mistakes
        if "test" in summary:
            figures["confusion_matrix"] = _confusion_matrix(summary["test"])
        if figures:
            self._run.log(figures)
        if self.folder.model.is_file():
            self._log_model(summary)

    def finish(self, *, succeeded: bool) -> None:
        """Ends the W&B run; returns when everything is written or sent.

        Raises:
            WandbError: it was not sent in time.
        """
        try:
            self._run.finish(exit_code=0 if succeeded else 1)
        except (wandb.errors.Error, TimeoutError, OSError) as exc:
            raise WandbError(_in_words(exc)) from exc

    @property
    def url(self) -> str | None:
        """The run's address; None offline."""
        return self._run.url if self.online else None

    def _log_model(self, summary: dict[str, Any]) -> None:
        made_from = read_provenance(self.folder)
        if self.online:  # W&B cannot name inputs offline
            self._run.use_artifact(_dataset(made_from.get("dataset_digest", "")))
        lineage = ("git_revision", "config_digest", "dataset_digest", "lock_digest")
        model = wandb.Artifact(
            _artifact_name(f"model-{summary['name']}"),
            "model",
            description="ONNX: uint8 images in, logits and probabilities out",
            metadata={
                "version": summary["model_version"],
                "test_accuracy": summary["test"]["accuracy"],
                **{key: made_from.get(key, "") for key in lineage},
            },
        )
        model.add_file(str(self.folder.model), "model.onnx")
        self._run.log_artifact(model)


def _in_words(exc: Exception) -> str:
    """A readable message for W&B's errors, which address developers."""
    text = " ".join(str(exc).split())
    if any(code in text for code in ("error 401", "error 403")):
        return f"the server rejects the key in WANDB_API_KEY or ~/.netrc ({text})"
    if isinstance(exc, TimeoutError) or any(sign in text for sign in ("timed out", "giving up")):
        return "no answer from the server"
    return text


def run_id(folder: RunFolder) -> str:
    """The id of a folder's W&B run, generated once, so that mirroring again continues the same
    run.
    """
    path = folder.path / FOLDER / "id"
    if not path.is_file():
        write_whole(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _settings() -> wandb.Settings:
    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,  # recorded in provenance.json
        disable_code=True,
        disable_job_creation=True,
        x_save_requirements=False,
        x_disable_stats=True,  # recorded in system.jsonl
        x_disable_machine_info=True,
        init_timeout=_INIT_S,
        login_timeout=_INIT_S,
        finish_timeout=_FINISH_S,
        finish_timeout_raises=True,
    )


def _confusion_matrix(test: dict[str, Any]) -> Any:
    counts = np.array(test["confusion"])
    labels, predictions = np.indices(counts.shape).reshape(2, -1).repeat(counts.ravel(), axis=1)
    return wandb.plot.confusion_matrix(
        y_true=labels.tolist(),
        preds=predictions.tolist(),
        class_names=test["classes"],
        title="Confusion matrix of the test set",
    )


def _dataset(digest: str) -> wandb.Artifact:
    pin = wandb.Artifact("dataset", "dataset", metadata={"digest": digest})
    with pin.new_file("digest.txt") as file:
        file.write(f"{digest}\n")
    return pin


def _artifact_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of every value except time, as ``system/…``; empty without rows."""
    names = {name for row in rows for name in row} - {"elapsed_s"}
    return {
        f"system/{name}": float(np.mean([row[name] for row in rows if name in row]))
        for name in sorted(names)
    }


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    """Numbers and texts, test metrics as ``test/…``; lists are in the plots."""
    test = {f"test/{name}": value for name, value in summary.get("test", {}).items()}
    return {
        name: value
        for name, value in (summary | test).items()
        if isinstance(value, int | float | str)
    }


def remove_copies(folder: RunFolder) -> None:
    """Deletes W&B's copies of sent files; the run folder has them all."""
    home = folder.path / FOLDER
    for name in ("cache", "artifacts", "data", "latest-run", "debug.log", "debug-internal.log"):
        _remove(home / name)
    for run in home.glob("*run-*"):
        _remove(run)


def _remove(path: Path) -> None:
    """Removes a file, link or folder, if it exists."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def main() -> None:
    """Follows the folder until the input ends."""
    folder, mode = RunFolder(Path(sys.argv[1])), sys.argv[2]
    destination = Destination(**json.loads(sys.argv[3]))
    os.nice(5)  # training has priority
    ended, words = threading.Event(), list[str]()
    threading.Thread(target=_listen, args=(words, ended), daemon=True).start()
    while "started" not in read_provenance(folder) and not ended.wait(_LOOK_S):
        pass  # provenance is not known yet
    _say("connecting")
    try:
        mirror = WandbMirror(folder, destination, online=mode == "online")
        _say("mirroring", mirror.url)
        while not ended.wait(_LOOK_S):
            mirror.catch_up()
        mirror.catch_up()
        if succeeded := words == ["finished"]:
            mirror.conclude()
        mirror.finish(succeeded=succeeded)
    except WandbError as exc:
        _say("failed", str(exc))
        sys.exit(1)
    except Exception as exc:  # anything may be raised by W&B's client; details are in mirror.log
        _say("failed", f"{type(exc).__name__} in W&B's client, see {folder.path / FOLDER}")
        raise
    if mode == "online":
        remove_copies(folder)
        if succeeded:
            write_whole(folder.path / SYNCED, json.dumps({"url": mirror.url}) + "\n")
    _say("done", mirror.url)


def _listen(words: list[str], ended: threading.Event) -> None:
    words += sys.stdin.read().split()
    ended.set()


def _say(state: str, detail: str | None = None) -> None:
    print(state, detail or "", flush=True)


if __name__ == "__main__":
    main()
