"""Starts capture in a process where the settings ask for it."""

import os
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from common.files import user_path
from common.model.artifact import ArtifactMetadata
from common.objects import FolderStore, Store
from serve.settings import Settings
from serve.telemetry import instruments as inst
from serve.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from serve.capture.feedback import StoredAnswers
    from serve.capture.recorder import Recorder

CLOSE_S = 3.0  # for the rest, when the process ends


class Capturing(NamedTuple):
    """The recorder of predictions, and the store of their labels."""

    recorder: "Recorder"
    answers: "StoredAnswers"

    def renew(self) -> None:
        """Renews both in a copy of the process."""
        self.recorder.renew()
        self.answers.renew()


def capture_answers(
    telemetry: Telemetry, settings: Settings, metadata: ArtifactMetadata, by_itself: bool = True
) -> Capturing | None:
    """Starts capture; None if the settings name no store.

    Args:
        by_itself: as for `Recorder`.
    """
    if not settings.capture:
        return None
    from serve.capture.feedback import StoredAnswers  # imported only if needed
    from serve.capture.recorder import Recorder

    open_store = partial(open_place, settings.capture)
    recorder = Recorder(
        open_store,
        metadata.version,
        settings.capture_share,
        settings.capture_unsure,
        settings.capture_rows,
        settings.capture_age_s,
        by_itself,
    )
    telemetry.add_observer(recorder)
    telemetry.instrument(lambda meter: register_instruments(meter, recorder))
    return Capturing(recorder, StoredAnswers(recorder, open_store))


def register_instruments(meter: "Meter", recorder: "Recorder") -> None:
    """The catalogue's capture metrics of one process; sum them over processes."""
    from opentelemetry.metrics import CallbackOptions, Observation

    def kept(_: CallbackOptions) -> list[Observation]:
        return [Observation(recorder.counts.kept)]

    def dropped(_: CallbackOptions) -> list[Observation]:
        found = recorder.counts.dropped.items()
        return [Observation(number, {"reason": reason}) for reason, number in found]

    def waiting(_: CallbackOptions) -> list[Observation]:
        return [Observation(recorder.counts.waiting_bytes)]

    for create, what, read in (
        (meter.create_observable_counter, inst.CAPTURE_KEPT, kept),
        (meter.create_observable_counter, inst.CAPTURE_DROPPED, dropped),
        (meter.create_observable_gauge, inst.CAPTURE_WAITING, waiting),
    ):
        create(what.name, [read], what.unit, what.description)


def open_place(url: str) -> Store:
    """The store of a URL or a path, with what the image has; sends no request yet."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from serve.capture.s3 import Bucket

        return Bucket.from_environment(parts.netloc, parts.path, os.environ)
    return FolderStore(user_path(parts.path if parts.scheme == "file" else url))
