"""The image's entry point: Lambda's runtime client on Lambda, the HTTP server elsewhere.

Run by path under ``python3 -I``, so neither variables nor the working directory affect imports.
"""

import gc
import os
import sys
from pathlib import Path

HANDLER = "serve.aws_lambda.handler.handler"


def main(arguments: list[str]) -> None:
    """On Lambda the optional argument names another handler; elsewhere arguments go to the
    server.
    """
    if "AWS_LAMBDA_RUNTIME_API" not in os.environ:
        from serve.server.server import main as run_server

        sys.exit(run_server(arguments))

    from serve.aws_lambda.lifecycle import (
        at_sigterm,
        block_sigterm,
        end_clients,
        load_for_clients,
        register_snapshot_hooks,
    )

    block_sigterm()
    if "AWS_LAMBDA_MAX_CONCURRENCY" in os.environ:  # the runtime client forks this many processes
        at_sigterm(end_clients)
        os.register_at_fork(after_in_child=lambda: at_sigterm(_close_telemetry))
        if not arguments:
            load_for_clients()
    else:
        at_sigterm(_close_telemetry)
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        register_snapshot_hooks()
    if not arguments:
        gc.disable()  # imports create no garbage; our handler turns collection on again
    from awslambdaric.__main__ import main as run_lambda

    run_lambda(["awslambdaric", *(arguments or [HANDLER])])


def _close_telemetry() -> None:
    """Closes our handler's telemetry, if it was imported."""
    handler = sys.modules.get("serve.aws_lambda.handler")
    if telemetry := getattr(handler, "telemetry", None):
        telemetry.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(sys.argv[1:])
