"""AWS Lambda's entry: the model is loaded on import, so that a call finds it warm."""

from mangum import Mangum

from serve.app import create_app
from serve.loading import load_predictor
from serve.settings import Settings

settings = Settings.from_environment()
app = create_app(load_predictor(settings), settings)
handler = Mangum(app, lifespan="off")  # the adapter would run start-up again for every event
