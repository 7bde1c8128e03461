"""One process of the AWS provider for many commands of Terraform.

Terraform starts the provider for each command, and both work through the schemas of its 1,500
types: six seconds of a core, whatever the command does. A provider that runs already can be
attached (https://developer.hashicorp.com/terraform/plugin/debugging); a relay in front of it leaves
out the types that no source names, and passes on every other call. A command then takes 0.1 s.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console

from infra.terraform.program import Installation
from infra.terraform.root import SOURCES, Root
from infra.terraform.state import LocalState

VARIABLE = "TF_REATTACH_PROVIDERS"

_ANNOUNCED = re.compile(rf"{VARIABLE}='(.*)'")
_UNLIMITED = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
# More than Terraform's ten at a time: some wait a minute for AWS.
_CALLS_AT_A_TIME = 32
# Of GetProviderSchema.Response in tfplugin5.proto: maps from the name of a type to its schema.
_RESOURCES, _DATA_SOURCES, _EPHEMERAL = 2, 3, 8
_NAME = 1  # of an entry of a map


class Provider:
    """The provider's program, from where `terraform init` finds it."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        """`folder` is an empty one, to prepare a root in."""
        self._installation, self._schema = installation, b""
        root = Root.open(
            "state",
            "account",
            state=LocalState(folder / "state"),
            work=folder / "work",
            console=Console(file=StringIO()),
            installation=installation,
        )
        root.init()
        # Links on the way to a mirror keep `**` from finding it.
        below = ".terraform/providers/*/*/*/*/*/terraform-provider-*"
        (self._program,) = root.process.folder.absolute().glob(below)

    @contextmanager
    def attached(self, folder: Path, **variables: str) -> Iterator[Installation]:
        """A Terraform that uses a provider which runs in this folder, with these variables besides.

        Each command configures it anew: two commands at a time need two of them. It reads files of
        the sources by names that are relative to the root.
        """
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**self._installation.environment, **variables}
        with _running(self._program, folder, environment) as facts:
            (provider,) = facts.values()
            address = f"unix:{provider['Addr']['String']}"
            with (
                grpc.insecure_channel(address, options=_UNLIMITED) as channel,
                ThreadPoolExecutor(_CALLS_AT_A_TIME) as threads,
            ):
                relay = grpc.server(threads, [_Relay(channel, self._trim)], options=_UNLIMITED)
                port = relay.add_insecure_port("127.0.0.1:0")
                provider["Addr"] = {"Network": "tcp", "String": f"127.0.0.1:{port}"}
                relay.start()
                try:
                    more = {VARIABLE: json.dumps(facts)}
                    yield replace(self._installation, environment={**environment, **more})
                finally:
                    relay.stop(grace=None).wait()

    def _trim(self, ask: Any) -> bytes:
        """Each process says the same: the first one is asked."""
        self._schema = self._schema or trimmed(ask())
        return self._schema


@contextmanager
def _running(program: Path, folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What the provider says of itself, as Terraform wants to be told it."""
    with subprocess.Popen(
        [program, "-debug"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        try:
            found = next(filter(None, map(_ANNOUNCED.search, process.stdout)), None)
            assert found, f"{program} ended before it said where it is: {process.wait()}"
            yield json.loads(found[1])
        finally:
            process.kill()


class _Relay:
    """A handler of every method, as grpc.server takes one; requests and answers stay bytes."""

    def __init__(self, channel: Any, trim: Any) -> None:
        self._channel, self._trim = channel, trim

    def service(self, details: Any) -> Any:
        method = str(details.method)
        if method.startswith("/plugin.GRPC"):
            return None  # streams of go-plugin, which Terraform does without
        call = self._channel.unary_unary(method)

        def answer(request: bytes, context: Any) -> Any:
            try:
                if method.endswith("/GetSchema"):
                    return self._trim(lambda: call(request))
                return call(request)
            except grpc.RpcError as exc:
                error: Any = exc
                return context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(answer)


def trimmed(schema: bytes) -> bytes:
    """A GetProviderSchema.Response, without the types that no root names."""
    return b"".join(
        whole
        for number, content, whole in _fields(schema)
        if number not in (_RESOURCES, _DATA_SOURCES, _EPHEMERAL) or _name(content) in _named()
    )


@cache
def _named() -> frozenset[str]:
    """Types in the sources, and a few words more."""
    texts = (path.read_text() for path in SOURCES.rglob("*.tf*") if path.is_file())
    return frozenset(name for text in texts for name in re.findall(r"\baws_\w+", text))


def _name(entry: bytes) -> str:
    return next(content for number, content, _ in _fields(entry) if number == _NAME).decode()


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, content and whole of each field of bytes or of a number, of a protobuf message."""
    place = 0
    while place < len(message):
        start = place
        tag, place = _varint(message, place)
        size, after = _varint(message, place)
        length_delimited = tag & 7 == 2
        end = after + size if length_delimited else after
        yield tag >> 3, message[after:end] if length_delimited else b"", message[start:end]
        place = end


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number there, and where it ends."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
