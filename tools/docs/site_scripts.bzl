"""`@site_scripts`: what the documentation site runs in browsers besides its theme's own, from npm."""

load("//tools:npm.bzl", "npm_package")

_PACKAGES = {
    # Workers for pages that were opened from disk: the search is one.
    "iframe-worker": ("1.0.4", "shim/index.js", "sha512-roeaaI+Lg1LJNfgpCjoRe/+WzEjy9+Z08LoEvu85MCPbBjwm+qXz8Ag5U05lHa6V1CysZyGzE0SOkAtSUA5q7Q=="),
    # Diagrams. The theme would load version 11 from the network.
    "mermaid": ("11.12.2", "dist/mermaid.min.js", "sha512-n34QPDPEKmaeCG4WDMGy0OT6PSyxKCfy2pJgShP+Qow2KLrvWjclwbc3yXfSIf4BanqWEhQEpngWwNp/XhZt6w=="),
}
_BUILD = """exports_files(["iframe-worker.js", "mermaid.js"])\n"""

def _site_scripts_impl(rctx):
    rctx.file("BUILD.bazel", _BUILD, executable = False)
    for name, (version, script, integrity) in _PACKAGES.items():
        if npm_package(rctx, name, version, integrity, "package/" + name):
            rctx.symlink("package/{}/{}".format(name, script), name + ".js")
        else:
            rctx.file(name + ".js", "", executable = False)

_repository = repository_rule(
    implementation = _site_scripts_impl,
    doc = "iframe-worker.js and mermaid.js; empty where there is no npm.",
)

def _extension_impl(_mctx):
    _repository(name = "site_scripts")

site_scripts = module_extension(implementation = _extension_impl)
