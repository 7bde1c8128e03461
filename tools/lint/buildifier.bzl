"""`@buildifier`: the formatter of BUILD files, which npm carries as ready programs."""

load("//tools:programs.bzl", "program_on_path")

_VERSION = "8.2.1"
_INTEGRITY = "sha512-eZ/Aq+2r4PcJa6LbPCT6ffgIJfTU/gYilqIzoX2OLM4nNkbQC6tTMPZNn7aHHjhGPxbNLv41zm4Xqt1olCLgXw=="
_BUILD = """exports_files(["buildifier"])\n"""

def _buildifier_impl(rctx):
    rctx.file("BUILD.bazel", _BUILD, executable = False)
    npm = program_on_path(rctx, "npm")
    if not npm:
        rctx.file(
            "buildifier",
            "npm is not on PATH, so BUILD files are not checked. Install it: apt-get install npm\n",
            executable = False,
        )
        return
    packed = rctx.execute([npm, "pack", "--silent", "@bazel/buildifier@" + _VERSION], timeout = 300)
    if packed.return_code:
        fail("npm could not fetch @bazel/buildifier@{}:\n{}".format(_VERSION, packed.stderr))
    archive = "bazel-buildifier-{}.tgz".format(_VERSION)
    rctx.download_and_extract(
        url = "file://{}".format(rctx.path(archive)),
        integrity = _INTEGRITY,
        output = "package",
        stripPrefix = "package",
    )
    rctx.symlink("package/buildifier-" + _platform(rctx.os), "buildifier")
    rctx.delete(archive)

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
