"""What nearly every BUILD file loads: the Python rules with this project's defaults, and `sources`."""

load("@rules_python//python:py_binary.bzl", _py_binary = "py_binary")
load("@rules_python//python:py_library.bzl", _py_library = "py_library")
load("@rules_python//python:py_test.bzl", "py_test")
load("//tools/lint:sources.bzl", _sources = "sources")

py_library = _py_library
sources = _sources

_RUNNER = Label("//tools:pytest_main.py")

# Bazel runs as many tests as there are cores: more threads within each would only wait for each other.
_ENV = {"OMP_NUM_THREADS": "1"}

def py_binary(name, main = None, srcs = None, **kwargs):
    """A program whose only source is its main file, unless `srcs` says otherwise.

    Args:
      name: name of the program.
      main: the file that runs; `name`.py unless given.
      srcs: sources; the main file unless given. The folder's other modules are a py_library in `deps`.
      **kwargs: as for py_binary of rules_python.
    """
    main = main or name + ".py"
    _py_binary(
        name = name,
        srcs = srcs or [main],
        main = main,
        **kwargs
    )

def pytest_test(name, srcs = None, deps = [], data = [], args = [], env = {}, **kwargs):
    """Runs pytest over `srcs` with JUnit XML, shards, filters and coverage as Bazel asks for them.

    One file or test: `bazel test //tests/serve --test_filter=test_app` or `--test_arg=-krejects`.

    Args:
      name: name of the test.
      srcs: files that pytest collects. Unless given, NAME.py where the name is that of a test file (test_x, x_test), else the
        folder's test_*.py. A conftest.py or a helper is a py_library in `deps`.
      deps: what the files import, unless another of `deps` brings it; pytest excepted.
      data: files that the tests read.
      args: further options of pytest.
      env: variables of the test's process, beside one thread for numerical libraries.
      **kwargs: as for py_test.
    """
    if not srcs:
        is_file = name.startswith("test_") or name.endswith("_test")
        srcs = [name + ".py"] if is_file else native.glob(["test_*.py"])
    py_test(
        name = name,
        srcs = srcs + [_RUNNER],
        main = _RUNNER,
        args = ["$(rootpath %s)" % src for src in srcs] + args,
        data = data + [Label("//:pyproject.toml")],
        env = _ENV | env,
        deps = deps + [Label("//tools:pytest_runtime")],
        **kwargs
    )
