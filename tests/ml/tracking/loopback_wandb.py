"""As much of a W&B server as one run needs, on loopback: it takes rows, files and artifacts, and
remembers them."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.programs import serving

KEY = "0123456789abcdef0123456789abcdef01234567"  # pragma: allowlist secret: counted up


class LoopbackWandb(ThreadingHTTPServer):
    """Answers what W&B's client asks, by the operations of its GraphQL; a wrong key gets 401."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.operations: list[str] = []
        self.history: dict[int, dict[str, Any]] = {}  # step -> what was logged
        self.rows = 0  # lines of history that arrived
        self.summary: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}  # name -> the request that made it
        self.used: list[str] = []  # ids of artifacts that are inputs
        self.runs: dict[str, dict[str, Any]] = {}  # id -> the request that made it
        self.exit_code: int | None = None
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data for one GraphQL operation."""
        answers = {
            "UpsertBucket": self._upsert_bucket,
            "RunResumeStatus": self._resume_status,
            "CreateRunFiles": self._create_run_files,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactFiles": self._create_artifact_files,
            "CreateArtifactManifest": self._manifest("createArtifactManifest"),
            "UpdateArtifactManifest": self._manifest("updateArtifactManifest"),
            "UseArtifact": self._use_artifact,
            "ArtifactByID": self._artifact_by_id,
        }
        with self.lock:
            self.operations.append(operation)
            if operation in answers:
                return answers[operation](variables)
        return _STILL.get(operation, {})

    def _upsert_bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = str(variables.get("name") or variables.get("id"))
        self.runs.setdefault(name, {}).update({k: v for k, v in variables.items() if v})
        entity = {"id": "RW50", "name": "founder"}
        project = {"id": "UHJv", "name": variables.get("project") or "kiln", "entity": entity}
        bucket = {
            "id": "UnVu",
            "name": name,
            "displayName": variables.get("displayName"),
            "description": None,
            "config": variables.get("config"),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(self.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        model: dict[str, Any] = {
            "id": "UHJv",
            "name": "kiln",
            "entity": {"id": "RW50", "name": "founder"},
            "bucket": None,
        }
        if variables["name"] in self.runs and self.history:
            last = self.history[max(self.history)]
            model["bucket"] = {
                "id": "UnVu",
                "name": variables["name"],
                "summaryMetrics": json.dumps(last),
                "displayName": "run",
                "logLineCount": 0,
                "historyLineCount": len(self.history),
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(last)]),
                "eventsTail": "[]",
                "config": "{}",
                "tags": [],
                "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": model}

    def _create_run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": files}}

    def _create_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        request = variables["input"]
        name = request["artifactCollectionName"]
        self.artifacts[name] = request
        artifact = {
            "id": f"artifact-{name}",
            "state": "PENDING",
            "artifactSequence": {"latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _create_artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges: list[dict[str, Any]] = [
            {
                "node": {
                    "storagePath": f"artifacts/{file['name']}",
                    "uploadUrl": f"{self.url}/upload/artifacts/{file['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": file["artifactID"]},
                }
            }
            for file in variables["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _manifest(self, field: str) -> Any:
        def answer(variables: dict[str, Any]) -> dict[str, Any]:
            file = {"id": "f", "uploadUrl": f"{self.url}/upload/manifest", "uploadHeaders": []}
            return {field: {"artifactManifest": {"id": "manifest", "file": file}}}

        return answer

    def _artifact_by_id(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["id"].removeprefix("artifact-")
        request = self.artifacts[name]
        project = {
            "id": "UHJv",
            "internalId": "UHJv",
            "name": "kiln",
            "entity": {"name": "founder"},
        }
        return {
            "artifact": {
                "__typename": "Artifact",
                "id": variables["id"],
                "artifactSequence": {
                    "__typename": "ArtifactSequence",
                    "name": name,
                    "project": project,
                },
                "versionIndex": 0,
                "artifactType": {"name": request["artifactTypeName"]},
                "description": request.get("description"),
                "metadata": request.get("metadata"),
                "ttlDurationSeconds": -2,
                "ttlIsInherited": True,
                "tags": [],
                "historyStep": None,
                "state": "COMMITTED",
                "size": 0,
                "digest": request["digest"],
                "commitHash": "c",
                "fileCount": 1,
                "createdAt": "2026-01-01T00:00:00Z",
                "updatedAt": None,
                "aliases": [],
            }
        }

    def _use_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.used.append(variables["input"]["artifactID"])
        return {"useArtifact": {"artifact": {"id": variables["input"]["artifactID"]}}}

    def take_stream(self, body: dict[str, Any]) -> None:
        """Rows, summary and end of a run, as its file stream carries them."""
        with self.lock:
            files = body.get("files") or {}
            for line in files.get("wandb-history.jsonl", {}).get("content", ()):
                row = json.loads(line)
                self.rows += 1
                self.history.setdefault(row["_step"], {}).update(row)
            for line in files.get("wandb-summary.json", {}).get("content", ()):
                self.summary.update(json.loads(line))
            if body.get("complete"):
                self.exit_code = body.get("exitcode")


_STILL: dict[str, dict[str, Any]] = {
    "Viewer": {
        "viewer": {
            "id": "VXNlcg",
            "entity": "founder",
            "username": "founder",
            "email": "",
            "flags": "{}",
            "teams": {"edges": []},
        }
    },
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "ArtifactType": {"project": {"artifact": None}},
    "CommitArtifact": {"commitArtifact": {"artifact": {"id": "artifact", "digest": "d"}}},
    "MarkRunFilesUploaded": {"markRunFilesUploaded": {"success": True}},
}


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackWandb
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        if not self._has_the_key():
            self._reply(401, {"error": "invalid key"})
        elif self.path.endswith("/file_stream"):
            self.server.take_stream(body)
            self._reply(200, {})
        else:
            operation = body.get("operationName") or _operation(body["query"])
            self._reply(200, {"data": self.server.answer(operation, body.get("variables") or {})})

    def do_PUT(self) -> None:
        with self.server.lock:
            self.server.files[self.path.removeprefix("/upload/")] = self._body()
        self._reply(200, {})

    def do_GET(self) -> None:
        self._reply(404, {})

    def _has_the_key(self) -> bool:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        return kind == "Basic" and base64.b64decode(value).decode() == f"api:{KEY}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read the memory, not the log."""


def _operation(query: str) -> str:
    named = re.search(r"(?:query|mutation)\s+(\w+)", query)
    return named[1] if named else "?"


@contextmanager
def loopback_wandb() -> Iterator[LoopbackWandb]:
    """A server that runs as long as the context lasts."""
    server = LoopbackWandb()
    with serving(server):
        yield server
