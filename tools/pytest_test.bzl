"""`pytest_test`: a `py_test` whose srcs are pytest files."""

load("@rules_python//python:py_test.bzl", "py_test")

_RUNNER = Label("//tools:pytest_main.py")

# Bazel runs as many tests as there are cores: more threads within each would only wait for each other.
_ENV = {"OMP_NUM_THREADS": "1"}

def pytest_test(name, srcs, deps = [], data = [], args = [], env = {}, **kwargs):
    """Runs pytest over `srcs` with JUnit XML, shards, filters and coverage as Bazel asks for them.

    One file or test: `bazel test //tests/serve --test_filter=test_app` or `--test_arg=-krejects`.

    Args:
      name: name of the test.
      srcs: files that pytest collects. A conftest.py or a helper is a py_library in `deps`.
      deps: what the files import, pytest excepted.
      data: files that the tests read.
      args: further options of pytest.
      env: variables of the test's process, beside one thread for numerical libraries.
      **kwargs: as for py_test.
    """
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
