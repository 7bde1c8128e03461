"""The extension that makes the packages of a hashed lock the repository @pypi."""

load("//python/private:host.bzl", "ENVIRON", "run_python")

def _pypi_impl(rctx):
    for module in rctx.attr._modules:
        rctx.path(module)  # so that a change of it, too, asks for a new fetch
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
        "_modules": attr.label_list(default = [
            "@@//tools/offline/pypi_hub:build_files.py",
            "@@//tools/offline/pypi_hub:distribution.py",
            "@@//tools/offline/pypi_hub:sitecustomize.py",
            "@@//tools/offline/pypi_hub:uv.py",
        ]),
        "_program": attr.label(default = "@@//tools/offline/pypi_hub:hub.py"),
    },
    environ = ENVIRON,
)

def _pip_impl(mctx):
    hubs = [tag for module in mctx.modules for tag in module.tags.parse]
    named = [tag.default_hub for module in mctx.modules for tag in module.tags.default]
    default = named[0] if named else hubs[0].hub_name
    if len(hubs) > 1 and not named:
        fail("pip.parse: of several hubs, pip.default(default_hub = ...) says which @pypi leads to")
    if default not in [hub.hub_name for hub in hubs]:
        fail("pip.default: no hub is called {}".format(default))
    for hub in hubs:
        if hub.hub_name == "pypi":
            fail("pip.parse: hub_name `pypi` is reserved for the hub that holds all others")
        _pypi(
            name = "pypi" if hub.hub_name == default else hub.hub_name,
            cycles = hub.experimental_requirement_cycles,
            requirements_lock = hub.requirements_lock,
        )

pip = module_extension(
    implementation = _pip_impl,
    tag_classes = {
        "default": tag_class(attrs = {
            "default_hub": attr.string(),
        }),
        "parse": tag_class(attrs = {
            "experimental_requirement_cycles": attr.string_list_dict(),
            "hub_name": attr.string(mandatory = True),
            "python_version": attr.string(),
            "requirements_lock": attr.label(mandatory = True),
        }),
    },
)
