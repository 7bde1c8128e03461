"""AWS Lambda's entry: the model is loaded on import, so that a call finds it warm."""

import gc

from mangum import Mangum

from serve.app import create_app
from serve.aws_lambda.invocation import Flushing
from serve.aws_lambda.outlet import Outlet
from serve.model_path import model_path
from serve.predictor import Predictor
from serve.settings import Settings

settings = Settings.from_environment()
predictor = Predictor.load(model_path(settings), settings.session_threads)
outlet = Outlet.open(settings, predictor.metadata)
app = create_app(predictor, settings, observer=outlet.observer)
adapter = Mangum(app, lifespan="off")  # it would run start-up again for every event
handler = Flushing(adapter, outlet.flush, settings.flush_ms / 1e3)

gc.freeze()  # what is loaded stays: the collector need not look at it amid answers
gc.enable()  # serve/image/boot.py starts without it
