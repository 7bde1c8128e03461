"""What nearly every BUILD file loads: the Python rules with this project's defaults.

Each of them also does for its folder what `sources()` does for a folder without any: hands its files to linters and scanners.
A target is for the users of its top folder unless it says otherwise, and those of tests are for tests alone: `package()` is for
other rules.
"""

load("@rules_python//python:py_binary.bzl", _py_binary = "py_binary")
load("@rules_python//python:py_library.bzl", _py_library = "py_library")
load("@rules_python//python:py_test.bzl", "py_test")
load("//tools/lint:sources.bzl", _sources = "sources")

sources = _sources

_RUNNER = Label("//tools:pytest_main.py")

# Bazel runs as many tests as there are cores: more threads within each would only wait for each other.
_ENV = {"OMP_NUM_THREADS": "1"}

# By top folder, who may depend on what it has; elsewhere, everybody.
_USERS = {
    "infra": ["//infra:users"],
    "ml": ["//ml:users"],
    "serve": ["//serve:users"],
    "tests": ["//tests:__subpackages__"],
}

def py_library(name, srcs = None, **kwargs):
    """Modules that are imported together.

    Args:
      name: name of the library.
      srcs: sources. Unless given, NAME.py; where there is none, the folder's modules but test_*.py.
      **kwargs: as for py_library of rules_python; `deps` leaves out what another of them brings.
    """
    if srcs == None:
        srcs = native.glob([name + ".py"], allow_empty = True) or native.glob(["*.py"], exclude = ["test_*.py"])
    _py_library(name = name, srcs = srcs, **_for_folder(kwargs))

def py_binary(name, main = None, srcs = None, files = {}, args = [], data = [], **kwargs):
    """A program whose only source is its main file, unless `srcs` says otherwise.

    Args:
      name: name of the program.
      main: the file that runs. Unless given, NAME.py; where there is none, main.py.
      srcs: sources; the main file unless given. The folder's other modules are a py_library in `deps`.
      files: options that name a file, `{"--image": "//serve/image"}`: each becomes `data`, too.
      args: further options.
      data: further files that the program reads.
      **kwargs: as for py_binary of rules_python.
    """
    main = main or (native.glob([name + ".py"], allow_empty = True) + ["main.py"])[0]
    _py_binary(
        name = name,
        srcs = srcs or [main],
        main = main,
        args = ["%s=%s" % option for option in _paths(files).items()] + args,
        data = _with_files(data, files),
        **_for_folder(kwargs)
    )

def pytest_test(name, srcs = None, exclude = [], helpers = [], files = {}, deps = [], data = [], args = [], env = {}, **kwargs):
    """Runs pytest over `srcs` with JUnit XML, shards, filters and coverage as Bazel asks for them.

    One file or test: `bazel test //tests/serve --test_filter=test_app` or `--test_arg=-krejects`.

    Args:
      name: name of the test.
      srcs: files that pytest collects. Unless given, NAME.py where the name is that of a test file (test_x, x_test), else the
        folder's test_*.py.
      exclude: which of the folder's test_*.py are left to other targets.
      helpers: what else of the folder they import, as conftest.py. What other folders import, too, is a py_library in `deps`.
      files: variables that name a file, `{"IMAGE": "//serve/image"}`, or those of a list of targets: each becomes `data`, too.
      deps: what the files and helpers import, unless another of `deps` brings it; pytest excepted.
      data: further files that the tests read.
      args: further options of pytest.
      env: further variables, beside one thread for numerical libraries.
      **kwargs: as for py_test.
    """
    if not srcs:
        is_file = name.startswith("test_") or name.endswith("_test")
        srcs = [name + ".py"] if is_file else native.glob(["test_*.py"], exclude = exclude)
    py_test(
        name = name,
        srcs = srcs + helpers + [_RUNNER],
        main = _RUNNER,
        args = ["$(rootpath %s)" % src for src in srcs] + args,
        data = _with_files(data, files) + [Label("//:pyproject.toml")],
        env = _ENV | _paths(files) | env,
        deps = deps + [Label("//tools:pytest_runtime")],
        **_for_folder(kwargs)
    )

def aliases(targets, **kwargs):
    """Public names in this folder for targets of others.

    Args:
      targets: labels by name.
      **kwargs: as for alias.
    """
    for name, actual in targets.items():
        native.alias(
            name = name,
            actual = actual,
            visibility = ["//visibility:public"],
            **kwargs
        )

def _for_folder(attributes):
    if not native.existing_rule("all_files"):
        sources()
    top = native.package_name().partition("/")[0]
    defaults = {"visibility": _USERS.get(top, ["//:__subpackages__"])}
    if top == "tests":
        defaults["testonly"] = True
    return defaults | attributes

def _paths(files):
    return {
        name: "$(rootpath %s)" % targets if type(targets) == "string" else " ".join(["$(rootpaths %s)" % one for one in targets])
        for name, targets in files.items()
    }

def _with_files(data, files):
    labels = {}
    for targets in files.values():
        for label in [targets] if type(targets) == "string" else targets:
            labels[label] = None
    return data + [label for label in labels if type(data) == "select" or label not in data]
