"""`@buildifier`: the formatter of BUILD files, which npm carries as ready programs."""

load("//tools:npm.bzl", "npm_package")

_VERSION = "8.2.1"
_INTEGRITY = "sha512-eZ/Aq+2r4PcJa6LbPCT6ffgIJfTU/gYilqIzoX2OLM4nNkbQC6tTMPZNn7aHHjhGPxbNLv41zm4Xqt1olCLgXw=="
_BUILD = """exports_files(["buildifier"])\n"""

def _buildifier_impl(rctx):
    rctx.file("BUILD.bazel", _BUILD, executable = False)
    if not npm_package(rctx, "@bazel/buildifier", _VERSION, _INTEGRITY):
        rctx.file(
            "buildifier",
            "npm is not on PATH, so BUILD files are not checked. Install it: apt-get install npm\n",
            executable = False,
        )
        return
    rctx.symlink("package/buildifier-" + _platform(rctx.os), "buildifier")

def _platform(os):
    system = "darwin" if os.name.startswith("mac") else "linux"
    return "{}_{}".format(system, {"aarch64": "arm64", "arm64": "arm64"}.get(os.arch, "amd64"))

_repository = repository_rule(
    implementation = _buildifier_impl,
    doc = "The program, or a text that says why it is missing.",
)

def _extension_impl(_mctx):
    _repository(name = "buildifier")

buildifier = module_extension(implementation = _extension_impl)
