"""An S3 API on the loopback interface, in a process of its own: moto's server.

moto looks whether an object exists and then writes it, without a lock around both; Amazon's S3 does
it in one step. So one request is let in at a time. `python object_store.py` prints its address.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3

BUCKET = "models"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """The variables that lead boto3 to a fresh store, which has one empty bucket."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, os.path.abspath(__file__)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert server.stdout
        address = server.stdout.readline().strip()
        assert address, "moto's server did not start"
        variables = ENVIRONMENT | {"AWS_ENDPOINT_URL": address}
        client: Any = boto3.client(
            "s3",
            endpoint_url=address,
            region_name=ENVIRONMENT["AWS_DEFAULT_REGION"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        location = {"LocationConstraint": ENVIRONMENT["AWS_DEFAULT_REGION"]}
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
        yield variables
    finally:
        server.terminate()
        server.communicate()


def _one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    lock = threading.Lock()

    def guarded(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with lock:
            return list(application(environ, start_response))

    return guarded


def _serve() -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Handler(MotoRequestHandler):
        def log(self, *_: Any) -> None:
            """Tests print nothing."""

    application = DomainDispatcherApplication(create_backend_app)
    guarded = _one_at_a_time(application)
    server = make_server("127.0.0.1", 0, guarded, threaded=True, request_handler=Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve()
