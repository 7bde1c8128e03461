"""The base image as a repository: assembled from Debian packages that a lock pins."""

# What we can make instead of what a registry would give.
ASSEMBLED = ["gcr.io/distroless/python3-debian12"]

_BUILD = """\
load("@rules_oci//oci/private:rules.bzl", "copied_layout")

copied_layout(
    name = "{name}",
    srcs = glob(["layout/**"]),
    visibility = ["//visibility:public"],
)
"""

_ALIAS = """\
alias(
    name = "{name}",
    actual = "{actual}",
    visibility = ["//visibility:public"],
)
"""

def _base_impl(rctx):
    _run(rctx, rctx.attr._debian, [
        "unpack",
        "--links",
        "keep",
        "--lock",
        rctx.path(rctx.attr._lock),
        "--output",
        rctx.path("root"),
    ])
    for module in rctx.attr._modules:
        rctx.path(module)  # so that a change of it, too, asks for a new fetch
    _run(rctx, rctx.attr._program, [
        "--root",
        rctx.path("root"),
        "--lock",
        rctx.path(rctx.attr._lock),
        "--output",
        rctx.path("layout"),
    ])
    rctx.delete("root")
    rctx.file("BUILD.bazel", _BUILD.format(name = rctx.attr.target), executable = False)

def _run(rctx, program, arguments):
    python = rctx.getenv("KILN_PYTHON") or rctx.which("python3.11") or rctx.which("python3")
    if not python:
        fail("no Python 3.11 on PATH: install it so that python3.11 runs")
    result = rctx.execute(
        [python, "-I", "-B", rctx.path(program)] + arguments,
        quiet = False,
        timeout = 1800,
    )
    if result.return_code:
        fail("{} failed:\n{}".format(program.name, result.stderr.strip()))

base = repository_rule(
    implementation = _base_impl,
    attrs = {
        "target": attr.string(mandatory = True),
        "_debian": attr.label(default = "@@//tools/provision:debian.py"),
        "_lock": attr.label(default = "@@//tools/offline/oci_layout:base.lock.json"),
        "_modules": attr.label_list(default = [
            "@@//common:oci.py",
            "@@//tools/offline/oci_layout:image.py",
        ]),
        "_program": attr.label(default = "@@//tools/offline/oci_layout:base.py"),
    },
    environ = ["HOME", "KILN_CACHE", "KILN_PYTHON", "XDG_CACHE_HOME"],
)

def _chosen_impl(rctx):
    rctx.file("BUILD.bazel", _ALIAS.format(
        name = rctx.attr.target,
        actual = rctx.attr.actual,
    ), executable = False)

chosen = repository_rule(
    implementation = _chosen_impl,
    attrs = {
        "actual": attr.string(mandatory = True),
        "target": attr.string(mandatory = True),
    },
    doc = "The image for the one platform there is, under the name without it.",
)
