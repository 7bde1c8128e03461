"""The host's Python 3.11 as a toolchain."""

load(":host.bzl", "ENVIRON", "run_python")

_BUILD = """\
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

py_runtime(
    name = "runtime",
    interpreter_path = "{interpreter}",
    python_version = "PY3",
    stub_shebang = "#!{interpreter}",
    tags = ["__PYTHON_RULES_MIGRATION_DO_NOT_USE_WILL_BREAK__"],
)

py_runtime_pair(
    name = "runtimes",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtimes",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _repository_impl(rctx):
    interpreter = run_python(rctx, rctx.attr._program, [])
    rctx.file("BUILD.bazel", _BUILD.format(interpreter = interpreter), executable = False)

_repository = repository_rule(
    implementation = _repository_impl,
    attrs = {"_program": attr.label(default = "@@//tools/offline/host_python:bare.py")},
    configure = True,
    doc = "A toolchain whose interpreter sees the standard library and declared dependencies, and nothing of the host's.",
    environ = ENVIRON,
)

def _host_python_impl(_):
    _repository(name = "host_python")

host_python = module_extension(implementation = _host_python_impl)
