"""Run our Python programs in repository rules."""

# Where the machine's cache is, and which Python runs: tools/bazel passes the latter.
ENVIRON = ["HOME", "KILN_CACHE", "KILN_PYTHON", "XDG_CACHE_HOME"]

def host_interpreter(rctx):
    """The host's Python 3.11.

    Args:
        rctx: the repository context.

    Returns:
        its path.
    """
    python = rctx.getenv("KILN_PYTHON") or rctx.which("python3.11") or rctx.which("python3")
    if not python:
        fail("no Python 3.11 on PATH: install it so that python3.11 runs")
    return python

def run_python(rctx, program, arguments):
    """Run a program of this repository with the host's Python 3.11.

    Args:
        rctx: the repository context.
        program: label of the program.
        arguments: what to pass to it.

    Returns:
        what it printed to its standard output.
    """
    result = rctx.execute(
        [host_interpreter(rctx), "-I", "-B", rctx.path(program)] + arguments,
        quiet = False,
        timeout = 3600,
    )
    if result.return_code:
        fail("{} failed:\n{}".format(program.name, result.stderr.strip()))
    return result.stdout.strip()
