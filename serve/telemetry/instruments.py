"""The service's metrics, as defined in infra/observability/catalogue.toml."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Instrument:
    """A metric's name, base unit, and labels."""

    name: str
    kind: Kind
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # a histogram's upper bounds, inclusive


METHOD, ROUTE = "http.request.method", "http.route"
STATUS, ERROR = "http.response.status_code", "error.type"
IMAGE_TYPE = "image.type"
STAGES = ("decode", "queue", "infer", "encode")

REQUEST_DURATION = Instrument(
    "http.server.request.duration",
    "histogram",
    "s",
    "Time from a request's head to the end of its response; the count is the number of requests",
    (METHOD, ROUTE, STATUS, ERROR),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
ERRORS = Instrument(
    "kiln.errors",
    "counter",
    "{request}",
    "Requests with an error response, by the last part of the problem type",
    (ERROR,),
)
SHED = Instrument(
    "kiln.requests.shed",
    "counter",
    "{request}",
    "Requests shed because the queue was full or the expected wait too long",
)
REFUSED = Instrument(
    "kiln.images.refused",
    "counter",
    "{image}",
    "Images in batches that failed individually, by error type",
    (ERROR,),
)
TRAILING = Instrument(
    "kiln.images.trailing",
    "counter",
    "{image}",
    "Images with trailing bytes, which are ignored: camera previews, metadata, padding",
    (IMAGE_TYPE,),
)
STAGE_DURATION = Instrument(
    "kiln.stage.duration",
    "histogram",
    "s",
    "Time that a successful request spent in decode, queue, infer and encode",
    ("stage",),
    (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
BATCH_SIZE = Instrument(
    "kiln.batch.size",
    "histogram",
    "{image}",
    "Batch size of the model run, as seen by each successful request",
    (),
    (1, 2, 4, 8, 16, 32, 64, 100),
)
QUEUE_DEPTH = Instrument(
    "kiln.queue.depth",
    "gauge",
    "{image}",
    "Maximum number of admitted, unanswered images since the last export",
)
PREDICTIONS = Instrument(
    "kiln.predictions", "counter", "{image}", "Predictions by class: the class mix", ("class",)
)
CONFIDENCE = Instrument(
    "kiln.confidence",
    "histogram",
    "1",
    "The highest probability of a prediction",
    (),
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
)
MODEL_INFO = Instrument(
    "kiln.model.info",
    "gauge",
    "1",
    "1, with the served model in its labels",
    ("name", "version", "quantisation", "revision"),
)
COLD_STARTS = Instrument(
    "kiln.cold_starts", "counter", "{start}", "1 for each process that started serving"
)
COLD_START_DURATION = Instrument(
    "kiln.cold_start.duration",
    "gauge",
    "s",
    "Time from the start of the process until it was ready",
)
DROPPED = Instrument(
    "kiln.telemetry.dropped",
    "counter",
    "{item}",
    "Spans, log records and metric exports that did not reach the collector",
    ("signal",),
)
DRIFT_ALARM = Instrument(
    "kiln.drift.alarm", "gauge", "1", "1 while a window's alarm is raised", ("window",)
)
DRIFT_SCORE = Instrument(
    "kiln.drift.score",
    "gauge",
    "1",
    "Distance from the reference",
    ("window", "signal", "statistic"),
)
DRIFT_THRESHOLD = Instrument(
    "kiln.drift.threshold",
    "gauge",
    "1",
    "Score above which an alarm is raised",
    ("window", "signal", "statistic"),
)
DRIFT_WINDOW_IMAGES = Instrument(
    "kiln.drift.window.images", "gauge", "{image}", "Images in a window", ("window",)
)
DRIFT_IMAGES = Instrument(
    "kiln.drift.images",
    "counter",
    "{image}",
    "Measured images in a bin of a signal",
    ("signal", "bin"),
)
DRIFT_REFERENCE_SHARE = Instrument(
    "kiln.drift.reference.share",
    "gauge",
    "1",
    "Share of the reference's images in a bin",
    ("signal", "bin"),
)
CAPTURE_KEPT = Instrument(
    "kiln.capture.kept", "counter", "{image}", "Predictions written to the capture store"
)
CAPTURE_DROPPED = Instrument(
    "kiln.capture.dropped",
    "counter",
    "{image}",
    "Predictions sampled for capture but lost: memory full, not written before the process ended, "
    "or an internal error",
    ("reason",),
)
CAPTURE_WAITING = Instrument(
    "kiln.capture.waiting", "gauge", "By", "Captured predictions in memory, not written yet"
)
CPU_TIME = Instrument(
    "process.cpu.time", "counter", "s", "CPU time of the process, user and system", ("cpu.mode",)
)
MEMORY = Instrument("process.memory.usage", "gauge", "By", "Resident memory of the process")
FILES = Instrument(
    "process.unix.file_descriptor.count",
    "gauge",
    "{file_descriptor}",
    "Open files and sockets of the process",
)
THREADS = Instrument("process.thread.count", "gauge", "{thread}", "Threads of the process")
UPTIME = Instrument("process.uptime", "gauge", "s", "Time since the start of the process")

# In the order of the catalogue.
ALL = (
    *(REQUEST_DURATION, ERRORS, REFUSED, TRAILING, SHED, STAGE_DURATION, BATCH_SIZE, QUEUE_DEPTH),
    *(PREDICTIONS, CONFIDENCE, MODEL_INFO, COLD_STARTS, COLD_START_DURATION, DROPPED),
    *(CPU_TIME, MEMORY, FILES, THREADS, UPTIME),
    *(DRIFT_ALARM, DRIFT_SCORE, DRIFT_THRESHOLD, DRIFT_WINDOW_IMAGES),
    *(DRIFT_IMAGES, DRIFT_REFERENCE_SHARE),
    *(CAPTURE_KEPT, CAPTURE_DROPPED, CAPTURE_WAITING),
)
