"""`types_test`: mypy over one folder, so that an edit elsewhere does not repeat it."""

load("@rules_python//python:py_test.bzl", "py_test")

_CHECK = Label("//tools/lint:types_check.py")

def types_test(name, srcs, deps, data = [], **kwargs):
    """Type-checks every file of `srcs`.

    Args:
      name: name of the test.
      srcs: `:python_sources` of folders.
      deps: packages whose types the files use; mypy names one that is missing.
      data: `:python_sources` of folders that the files import from.
      **kwargs: as for py_test.
    """
    py_test(
        name = name,
        srcs = [_CHECK],
        main = _CHECK,
        args = ["$(rootpaths %s)" % src for src in srcs],
        data = srcs + data + [Label("//:pyproject.toml")],
        deps = deps + ["@pypi//mypy"],
        **kwargs
    )
