"""The HTTP server: one process for each processor, each with a warm session of its own."""

import logging
import sys

import uvicorn

from serve.app import create_app
from serve.loading import load_predictor
from serve.predictor import ArtifactError
from serve.settings import Settings, SettingsError

logger = logging.getLogger(__name__)


def main() -> int:
    """Serves until SIGTERM or Ctrl-C, then answers what has arrived and ends."""
    try:
        settings = Settings.from_environment()
        predictor = load_predictor(settings)
    except (SettingsError, ArtifactError) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    app = create_app(predictor, settings)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        loop="uvloop",
        http="httptools",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
