"""The extension that makes the packages of a hashed lock the repository @pypi."""

load("//python/private:host.bzl", "ENVIRON", "run_python")

def _pypi_impl(rctx):
    run_python(rctx, rctx.attr._program, [
        "--lock",
        rctx.path(rctx.attr.requirements_lock),
        "--cycles",
        json.encode(rctx.attr.cycles),
        "--output",
        rctx.path("."),
    ])

_pypi = repository_rule(
    implementation = _pypi_impl,
    attrs = {
        "cycles": attr.string_list_dict(),
        "requirements_lock": attr.label(mandatory = True),
        # Named so that a change of one asks for a new fetch.
        "_modules": attr.label_list(default = [
            "@@//tools/offline/pypi_hub:build_files.py",
            "@@//tools/offline/pypi_hub:distribution.py",
            "@@//tools/offline/pypi_hub:lockfile.py",
            "@@//tools/offline/pypi_hub:store.py",
            "@@//tools/offline/pypi_hub:uv.py",
        ]),
        "_program": attr.label(default = "@@//tools/offline/pypi_hub:hub.py"),
    },
    environ = ENVIRON,
)

def _pip_impl(mctx):
    tags = [tag for module in mctx.modules for tag in module.tags.parse]
    if len(tags) != 1:
        fail("pip.parse: the offline world makes one hub, got {}".format(len(tags)))
    if tags[0].hub_name == "pypi":
        fail("pip.parse: hub_name `pypi` is reserved for the hub that holds all others")
    _pypi(
        name = "pypi",
        cycles = tags[0].experimental_requirement_cycles,
        requirements_lock = tags[0].requirements_lock,
    )

pip = module_extension(
    implementation = _pip_impl,
    tag_classes = {
        "parse": tag_class(attrs = {
            "experimental_requirement_cycles": attr.string_list_dict(),
            "hub_name": attr.string(mandatory = True),
            "python_version": attr.string(),
            "requirements_lock": attr.label(mandatory = True),
        }),
    },
)
