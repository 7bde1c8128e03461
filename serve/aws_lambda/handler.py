"""The AWS Lambda handler. Importing it loads the model, so every invocation finds it warm."""

import gc
import os

from msgspec import structs

from serve.aws_lambda.invocation import Adapter, FlushingHandler, LambdaTelemetry
from serve.http.app import create_app
from serve.inference.model_path import model_path
from serve.inference.predictor import Predictor
from serve.settings import Settings

settings = Settings.from_environment()
# Processes that share this environment.
clients = int(os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY") or 1)
settings = structs.replace(settings, cpus=max(1, settings.cpus // clients))
path = model_path(settings)
predictor = Predictor.load(path, settings.session_threads, settings.model_key)
telemetry = LambdaTelemetry.start(settings, predictor.metadata)
app = create_app(
    predictor,
    settings,
    observer=telemetry.observer,
    answers=telemetry.capturing and telemetry.capturing.answers,
)
adapter = Adapter(app, predictor.version)
handler = FlushingHandler(adapter, telemetry.flush, settings.flush_ms / 1e3)
if telemetry.capturing:  # separate backoff: an unavailable store must not delay telemetry
    handler = FlushingHandler(handler, telemetry.flush_captures, settings.flush_ms / 1e3)

gc.freeze()  # exempts loaded objects from garbage collection during requests
gc.enable()  # serve/image/boot.py disables it at start-up
