"""`pytest_test`: a `py_test` whose srcs are pytest files."""

load("@rules_python//python:py_test.bzl", "py_test")

_RUNNER = Label("//tools:pytest_main.py")

def pytest_test(name, srcs, deps = [], data = [], args = [], **kwargs):
    """Runs pytest over `srcs` with JUnit XML, shards, filters and coverage as Bazel asks for them.

    One test: `bazel test //tests/serve:test_app --test_filter=rejects` or `--test_arg=-krejects`.

    Args:
      name: name of the test.
      srcs: files that pytest collects. A conftest.py or a helper is a py_library in `deps`.
      deps: what the files import, pytest excepted.
      data: files that the tests read.
      args: further options of pytest.
      **kwargs: as for py_test.
    """
    py_test(
        name = name,
        srcs = srcs + [_RUNNER],
        main = _RUNNER,
        args = ["$(rootpath %s)" % src for src in srcs] + args,
        data = data + [Label("//:pyproject.toml")],
        deps = deps + [Label("//tools:pytest_runtime")],
        **kwargs
    )
