"""A workflow's jobs, step by step, as a runner of GitHub would, against a cloud on loopback.

Each job has a fresh clone, the variables and secrets of its environment, tokens with its own
subject, and credentials of the role that trusts it. Stand-ins, because a test cannot build or have
them: Bazel (`bazel.py`), the image that it would build, the pusher and cosign; the pace of a
release, its golden set, and what moto lacks.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import yaml

from common.programs import serving

REPOSITORY = "me/kiln"
STAND_INS = """
import os, runpy, sys
from pathlib import Path
module, *arguments = sys.argv[1:]
if module.startswith("infra.release"):
    from infra.release import settings
    from infra.release.commands import command
    settings.FOLDER = Path(os.environ["REHEARSAL_PACE"])
    command._GOLDEN_SET = Path(os.environ["REHEARSAL_GOLDEN"])
    opened = command.open_terraform
    def open_terraform(options, terminal):
        options.var += ["burn_rate_alarms=false", "failure_queue=false", "monthly_budget_usd=0"]
        return opened(options, terminal)
    command.open_terraform = open_terraform
if module.startswith("infra.supply_chain"):
    from infra.supply_chain import signature
    signature.find_program = lambda name: Path(os.environ["REHEARSAL_COSIGN"])
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__")
"""
PUSHER = """#!{python}
import os, sys
assert os.path.exists(os.environ["DOCKER_CONFIG"] + "/config.json"), "not logged in"
assert sys.argv[1] == "--repository"
"""
COSIGN = """#!{python}
import base64, json, os, pathlib, sys
command, *words = sys.argv[1:]
assert os.path.exists(os.environ["DOCKER_CONFIG"] + "/config.json"), "not logged in"
def option(name):
    return words[words.index(name) + 1]
key, digest = option("--key"), words[-1].rpartition(":")[2]
path = pathlib.Path({store!r}, digest + ".json")
known = json.loads(path.read_text()) if path.exists() else {{"signed": [], "stated": []}}
if command == "sign":
    known["signed"].append(key)
elif command == "attest":
    predicate = json.loads(pathlib.Path(option("--predicate")).read_text())
    known["stated"].append([key, option("--type"), predicate])
elif key not in known["signed"]:
    sys.exit("Error: no signatures found")
elif command == "verify-attestation":
    for by, kind, predicate in known["stated"]:
        if [by, kind] == [key, option("--type")]:
            subject = [{{"digest": {{"sha256": digest}}}}]
            statement = json.dumps({{"subject": subject, "predicate": predicate}}).encode()
            print(json.dumps({{"payload": base64.b64encode(statement).decode()}}))
path.write_text(json.dumps(known))
"""
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_NAMED = re.compile(r"(?P<action>[\w.-]+/[\w.-]+)@[0-9a-f]{40}")
SignIn = Callable[[str, str], Mapping[str, str]]  # role and token to variables


@dataclass
class Github:
    """GitHub: the repository, its settings, and who gives jobs their tokens."""

    folder: Path
    variables: Mapping[str, Mapping[str, str]]  # by environment
    secrets: Mapping[str, str]
    sign_in: SignIn
    runner: Mapping[str, str]  # variables of every step, which lead to the cloud and the stand-ins
    tokens_url: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)  # that Slack got
    ran: list[str] = field(default_factory=list)  # job/step

    def run(self, name: str, ref: str = "main", **inputs: str) -> dict[str, str]:
        """Runs a workflow; the result of each job. A job begins when those that it needs are done.

        Raises:
            AssertionError: a step failed; what it said.
        """
        path = Path(".github/workflows", f"{name}.yml")
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        needs: dict[str, dict[str, Any]] = {}
        for job, described in workflow["jobs"].items():
            assert set(_list(described.get("needs"))) <= set(needs), "jobs are in order"
            outputs = self._run_job(name, ref, job, described, inputs, needs)
            needs[job] = {"result": "success", "outputs": outputs}
        return {job: need["result"] for job, need in needs.items()}

    def _run_job(
        self,
        workflow: str,
        ref: str,
        job: str,
        described: Mapping[str, Any],
        inputs: Mapping[str, str],
        needs: Mapping[str, Any],
    ) -> dict[str, str]:
        clone = self.folder / f"{workflow}-{ref}-{job}"
        subprocess.run(["git", "clone", "-q", self.folder / "origin", clone], check=True)
        temp = self.folder / f"temp-{clone.name}"
        temp.mkdir()
        known = {f"inputs.{name}": value for name, value in inputs.items()}
        known["inputs.environment == 'production' && 'prod' || 'staging'"] = (
            "prod" if inputs.get("environment") == "production" else "staging"
        )
        known["toJSON(needs)"] = json.dumps(needs)
        for name, need in needs.items():
            known |= {f"needs.{name}.outputs.{key}": v for key, v in need["outputs"].items()}
        environment = _filled(described["environment"], known)
        known |= {f"vars.{key}": v for key, v in self.variables[environment].items()}
        known |= {f"secrets.{key}": v for key, v in self.secrets.items()}
        variables = self._github_variables(workflow, ref, clone, temp)
        if described["permissions"].get("id-token") == "write":
            variables["ACTIONS_ID_TOKEN_REQUEST_URL"] = f"{self.tokens_url}/token?api-version=2.0"
            variables["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = environment
        for step in described["steps"]:
            self.ran.append(f"{job}/{step.get('name', step.get('uses', '')).partition('@')[0]}")
            if "uses" in step:
                variables |= self._use(step, known, variables)
                continue
            more = {name: _filled(str(v), known) for name, v in step.get("env", {}).items()}
            self._bash(step["run"], clone, {**variables, **more})
            if step.get("id") and (temp / "output").exists():
                lines = (temp / "output").read_text().splitlines()
                known |= {f"steps.{step['id']}.outputs.{k}": v for k, _, v in split(lines)}
        outputs = described.get("outputs", {})
        return {name: _filled(value, known) for name, value in outputs.items()}

    def _github_variables(self, workflow: str, ref: str, clone: Path, temp: Path) -> dict[str, str]:
        commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=clone, text=True)
        return {
            **self.runner,
            "GITHUB_ACTOR": "me",
            "GITHUB_OUTPUT": str(temp / "output"),
            "GITHUB_REF_NAME": ref,
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "9",
            "GITHUB_SERVER_URL": "https://github.invalid",
            "GITHUB_SHA": commit.strip(),
            "GITHUB_WORKFLOW_REF": f"{REPOSITORY}/.github/workflows/{workflow}.yml@refs/tags/{ref}",
            "HOME": str(temp),
            "RUNNER_TEMP": str(temp),
        }

    def _use(
        self, step: Mapping[str, Any], known: Mapping[str, str], variables: Mapping[str, str]
    ) -> Mapping[str, str]:
        found = _NAMED.fullmatch(step["uses"])
        assert found, f"{step['uses']} is not pinned by its commit"
        if found["action"] != "aws-actions/configure-aws-credentials":
            # The clone is there, and Terraform and cosign are on PATH.
            programs = ("hashicorp/setup-terraform", "sigstore/cosign-installer")
            assert found["action"] in ("actions/checkout", *programs)
            return {}
        given = {name: _filled(value, known) for name, value in step["with"].items()}
        request = Request(
            f"{variables['ACTIONS_ID_TOKEN_REQUEST_URL']}&audience=sts.amazonaws.com",
            headers={"Authorization": f"bearer {variables['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}"},
        )
        with urlopen(request) as answer:
            token = json.load(answer)["value"]
        region = given["aws-region"]
        more = self.sign_in(given["role-to-assume"], token)
        return {"AWS_REGION": region, "AWS_DEFAULT_REGION": region, **more}

    def _bash(self, script: str, clone: Path, variables: Mapping[str, str]) -> None:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=clone,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{self.ran[-1]}: {done.stdout}\n{done.stderr}"


def split(lines: list[str]) -> list[tuple[str, str, str]]:
    return [line.partition("=") for line in lines]


def _filled(text: str, known: Mapping[str, str]) -> str:
    """The text with its expressions filled in; KeyError names one that nobody has set."""
    return _EXPRESSION.sub(lambda found: known[found[1]], text)


def _list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def claims(token: str) -> dict[str, str]:
    """What a token of the rehearsal says."""
    found: dict[str, str] = json.loads(base64.b64decode(token))
    return found


@contextmanager
def open_github(github: Github) -> Iterator[Github]:
    """Makes the repository, and serves tokens and Slack's webhook."""
    origin = github.folder / "origin"
    (origin / "tools").mkdir(parents=True)
    shim = origin / "tools/bazel"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.tools.workflows.bazel "$@"\n')
    shim.chmod(0o755)
    me = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            environment = self.headers["Authorization"].removeprefix("bearer ")
            [audience] = parse_qs(urlsplit(self.path).query)["audience"]
            subject = f"repo:{REPOSITORY}:environment:{environment}"
            token = json.dumps({"sub": subject, "aud": audience}).encode()
            self._answer(json.dumps({"value": base64.b64encode(token).decode()}).encode())

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                github.messages.append(json.loads(text))
            self._answer(b"ok")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as github.tokens_url:
        github.secrets = {"SLACK_WEBHOOK_URL": f"{github.tokens_url}/slack"}
        yield github


def stand_ins(folder: Path, digest: str) -> dict[str, str]:
    """Variables that lead to them; `digest` is of the image that the build would make."""
    for name, text in (("pusher", PUSHER), ("cosign", COSIGN)):
        path = folder / name
        path.write_text(text.format(python=sys.executable, store=str(folder)))
        path.chmod(0o755)
    for name in ("digest", "watcher"):
        (folder / name).write_text(f"{digest}\n")
    (folder / "tags").write_text("")
    (folder / "repository").write_text("\n")
    (folder / "sbom.json").write_text('{"bomFormat": "CycloneDX"}')
    files = {
        "//infra/release/commands:push_watch_image": str(folder / "pusher"),
        "//infra/release/commands:watch_image.digest": str(folder / "watcher"),
        "//infra/release/commands:watch_sbom": str(folder / "sbom.json"),
        "//:requirements_lock.txt": "requirements_lock.txt",
        "//serve/image:image.digest": str(folder / "digest"),
        "//serve/image:oci_push": str(folder / "pusher"),
        "//serve/image:repository": str(folder / "repository"),
        "//serve/image:tags": str(folder / "tags"),
        "//serve/image:sbom": str(folder / "sbom.json"),
        "//serve:model": os.environ.get("MODEL", "ml/bundled/model.int8.onnx"),
    }
    return {
        "REHEARSAL_COSIGN": str(folder / "cosign"),
        "REHEARSAL_FILES": json.dumps(files),
        "REHEARSAL_STAND_INS": STAND_INS,
    }
