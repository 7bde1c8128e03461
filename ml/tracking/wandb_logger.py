"""A training's side of its W&B mirror: starts it, tells it the end, never waits long for it."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console

from ml.run_folder import RunFolder
from ml.tracking.wandb_process import WandbProcess
from ml.tracking.wandb_settings import FOLDER, Destination, choose_mode, has_key

_ANSWER_S = 10.0  # within which a server answers that is there


class WandbLogger:
    """Mirrors a run to W&B for as long as the context lasts.

    W&B works in a process of its own that reads the run folder: whatever it or its server does, the
    training does not notice. What could not be sent can be sent later, from the folder.

    Args:
        run: what is mirrored.
        console: is told what became of it.
        mode: online, offline, or auto: online where there is a key.
        patience_s: how long the end of a run waits for W&B to finish writing or sending.
        project, entity, group, tags, notes: see `Destination`.
    """

    def __init__(
        self,
        run: RunFolder,
        console: Console,
        *,
        mode: str,
        patience_s: float,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
    ) -> None:
        self._run = run
        self._console = console
        self._patience_s = patience_s
        self._destination = Destination(project, entity, group, tuple(tags), notes)
        self._online = choose_mode(mode) == "online"
        if self._online and not has_key():
            self._say("no key in WANDB_API_KEY or ~/.netrc, so it stays offline")
            self._online = False

    def __enter__(self) -> "WandbLogger":
        self._process = WandbProcess(self._run, self._destination, online=self._online)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.end(
            finished=kind is None,
            patience_s=self._patience_s,
            answer_s=_ANSWER_S if self._online else self._patience_s,
        )
        self._report()

    def _report(self) -> None:
        state, detail = self._process.state, self._process.detail
        later = f"send it later: bazel run //ml:wandb_sync -- {self._run.path}"
        if state == "done" and self._online:
            self._say(detail)
        elif state == "done":
            self._say(f"offline, in {self._run.path / FOLDER}; {later}")
        elif state == "failed":
            self._say(f"{detail}; {later}")
        elif state == "connecting":
            self._say(f"no answer from the server; {later}")
        else:
            self._say(f"not done after {self._patience_s:g} s; {later}")

    def _say(self, text: str) -> None:
        self._console.print(f"[bold]W&B:[/] {text}", highlight=False, soft_wrap=True)
