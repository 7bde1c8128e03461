"""Which Bazel serves this workspace: the one on PATH, or one provisioned from Debian's packages.

Like all that it imports, this works on Python 3.9 and later. It runs before every command, so what
a warm start does not need is imported late.
"""

from __future__ import annotations

import os
import signal
import sys
from hashlib import sha256

HERE = os.path.dirname(os.path.realpath(__file__))
WORKSPACE = os.path.dirname(os.path.dirname(HERE))
OFFLINE_RC = os.path.join(WORKSPACE, "tools", "offline", "offline.bazelrc")
BELOW_TMP_RC = os.path.join(WORKSPACE, "tools", "offline", "below_tmp.bazelrc")
RECIPE = ("bazel.py", "trust.py", "unpack.py")
PYTHON = (3, 11)
PYTHON_RECIPE = ("python.py", "unpack.py")
PROBE_VARIABLE = "KILN_BAZEL_PROBE"  # set while a candidate is asked for its version
PROBE_TIMEOUT_S = 30
INSTALL_ONLINE = (
    "install Bazelisk (npm: @bazel/bazelisk, Homebrew and others: bazelisk) and put it on PATH"
)


class WrapperError(Exception):
    """Something a person has to put right; the message says what and how."""


def main(arguments: list[str]) -> int:
    os.environ["PATH"] = os.environ.pop("KILN_CALLER_PATH", os.environ.get("PATH", ""))
    if os.environ.get(PROBE_VARIABLE):
        return 1  # a candidate on PATH leads back here: it is no Bazel
    try:
        world = os.environ.get("KILN_BAZEL") or "either"
        if world not in ("either", "online", "offline"):
            raise WrapperError(f"KILN_BAZEL is {world!r}, expected offline or online")
        if world != "offline":
            bazel = bazel_on_path()
            if bazel is not None:
                become([bazel, *arguments])
            if world == "online":
                raise WrapperError(
                    f"KILN_BAZEL=online, and PATH has neither bazelisk nor bazel {version()}: "
                    f"{INSTALL_ONLINE}"
                )
        run_provisioned(arguments)
    except WrapperError as error:
        print(f"kiln: error: {error}", file=sys.stderr)
        return 1
    return 0


def version() -> str:
    with open(os.path.join(WORKSPACE, ".bazelversion")) as handle:
        return handle.read().strip()


def wanted() -> str:
    """The wanted version: Bazelisk's variable, such as 8.x or latest, comes before the file."""
    return os.environ.get("USE_BAZEL_VERSION") or version()


def bazel_on_path() -> str | None:
    """Bazelisk, which fetches any version, else a Bazel of exactly the version that is wanted."""
    candidates = [*on_path("bazelisk"), *on_path("bazel")]
    return next((candidate for candidate in candidates if serves(candidate)), None)


def on_path(name: str) -> list[str]:
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    paths = [os.path.abspath(os.path.join(folder, name)) for folder in folders]
    return [path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)]


def serves(candidate: str) -> bool:
    real = os.path.realpath(candidate)
    if real == os.path.join(WORKSPACE, "tools", "bazel"):
        return False
    if "bazelisk" in candidate or "bazelisk" in real:  # it is often installed as `bazel` too
        return True
    return wanted() == version() and answer([candidate, "--version"]) == f"bazel {version()}"


def answer(command: list[str]) -> str | None:
    import subprocess

    environment = {**os.environ, PROBE_VARIABLE: "1"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def run_provisioned(arguments: list[str]) -> None:
    if wanted() != version():
        raise WrapperError(
            f"USE_BAZEL_VERSION is {wanted()!r}, .bazelversion asks for {version()}, and only "
            f"Bazelisk serves another: {INSTALL_ONLINE}"
        )
    python = host_python()
    if sys.version_info[:2] != PYTHON:
        become([python, "-I", "-S", "-B", os.path.realpath(__file__), *arguments])
    cache = cache_root()
    prefix = os.path.join(cache, "bazel", f"{version()}-{recipe_digest()}")
    if not os.path.isdir(prefix):
        provision(prefix)
    bazel = os.path.join(prefix, "usr", "bin", "bazel")
    if not os.environ.get("KILN_PYTHON"):
        remember(python, os.path.join(cache, "bazel", "python3.11"))
    os.environ["KILN_PYTHON"] = python
    become([bazel, *startup_options(prefix, [cache, python]), *arguments])


def remember(python: str, link: str) -> None:
    """Lets the next start skip the search, and builds keep their interpreter when PATH changes."""
    if os.path.realpath(link) != python:
        aside = f"{link}.{os.getpid()}"
        try:
            os.symlink(python, aside)
            os.replace(aside, link)
        except OSError:  # a cache that is full or read-only serves all the same
            pass


def become(command: list[str]) -> None:
    """Replace this process: exit code, signals and terminal are the command's own."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; children would too
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 # no shell is what is wanted


def startup_options(prefix: str, used_folders: list[str]) -> list[str]:
    options = [f"--bazelrc={prefix}/kiln.bazelrc", f"--bazelrc={OFFLINE_RC}"]
    temporary = "/tmp/"  # noqa: S108 # only compared
    if any(path.startswith(temporary) for path in (os.getcwd(), WORKSPACE, *used_folders)):
        options.append(f"--bazelrc={BELOW_TMP_RC}")
    return options


def cache_root() -> str:
    chosen = os.environ.get("KILN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.abspath(chosen or os.path.join(base, "kiln"))


def recipe_digest(recipe: tuple[str, ...] = RECIPE) -> str:
    digest = sha256()
    for name in recipe:
        with open(os.path.join(HERE, name), "rb") as handle:
            digest.update(handle.read())
    return digest.hexdigest()[:12]


def provision(prefix: str) -> None:
    sys.path.insert(0, WORKSPACE)
    from pathlib import Path

    from tools.provision import bazel
    from tools.provision.cache import ProvisionError

    if version() != bazel.RELEASE:
        raise WrapperError(
            f"Debian's packages have Bazel {bazel.RELEASE}, .bazelversion asks for {version()}: "
            f"{INSTALL_ONLINE}"
        )
    try:
        bazel.provision(Path(prefix))
    except ProvisionError as error:
        raise WrapperError(
            f"no Bazel {version()} on PATH, and none could be provisioned "
            f"({in_one_line(error)}): {INSTALL_ONLINE}"
        ) from error
    except OSError as error:
        raise _not_stored("Bazel", error) from error


def provision_python(prefix: str) -> None:
    sys.path.insert(0, WORKSPACE)
    from pathlib import Path

    from tools.provision import python
    from tools.provision.cache import ProvisionError

    try:
        python.provision(Path(prefix))
    except ProvisionError as error:
        raise WrapperError(
            "no Python 3.11 on PATH: install it so that python3.11 runs, or "
            f"{INSTALL_ONLINE}; it could not be provisioned ({in_one_line(error)})"
        ) from error
    except OSError as error:
        raise _not_stored("Python 3.11", error) from error


def _not_stored(what: str, error: OSError) -> WrapperError:
    return WrapperError(
        f"{what} cannot be stored in {cache_root()} ({error}): make room there, or let "
        "KILN_CACHE name a folder that can be written to"
    )


def in_one_line(error: Exception) -> str:
    """The first line of the message; the rest goes to a file."""
    from pathlib import Path

    from tools.provision.cache import write_whole

    text = str(error).strip()
    first, _, rest = text.partition("\n")
    if not rest:
        return first
    details = Path(cache_root(), "bazel", "why-not.txt")
    try:
        write_whole(details, text + "\n")
    except OSError:  # as on a full disk, which is then the reason
        return " ".join(text.split())
    return f"{first.rstrip(':')}, see {details}"


def host_python() -> str:
    """The real interpreter that builds use: $KILN_PYTHON, this one, one on PATH, or Debian 12's."""
    chosen = os.environ.get("KILN_PYTHON")
    own = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    if sys.version_info[:2] == PYTHON and chosen in (None, "", own):
        return own
    candidates = [chosen] if chosen else [*on_path("python3.11"), *on_path("python3")]
    for candidate in candidates:
        real = real_python(candidate)
        if real is not None:
            return real
    if chosen:
        raise WrapperError(f"KILN_PYTHON is {chosen}, which is no Python 3.11")
    prefix = os.path.join(cache_root(), "python", f"debian-12-{recipe_digest(PYTHON_RECIPE)}")
    if not os.path.isdir(prefix):
        provision_python(prefix)
    return os.path.join(os.path.realpath(prefix), "usr", "bin", "python3.11")


def real_python(candidate: str) -> str | None:
    """Where the interpreter behind ``candidate`` (a shim, a venv) is, None unless it is 3.11."""
    code = "import sys; print(*sys.version_info[:2]); print(sys._base_executable)"
    lines = (answer([candidate, "-I", "-S", "-c", code]) or "").splitlines()
    if len(lines) != 2 or lines[0] != "{} {}".format(*PYTHON):
        return None
    return os.path.realpath(lines[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
