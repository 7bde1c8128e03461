"""AWS Lambda's entry: the model is loaded on import, so that a call finds it warm."""

from mangum import Mangum

from serve.app import create_app
from serve.model_path import model_path
from serve.predictor import Predictor
from serve.settings import Settings

settings = Settings.from_environment()
predictor = Predictor.load(model_path(settings), settings.session_threads)
app = create_app(predictor, settings)  # Telemetry.start(…).observer goes here, as in server.py
handler = Mangum(app, lifespan="off")  # the adapter would run start-up again for every event
