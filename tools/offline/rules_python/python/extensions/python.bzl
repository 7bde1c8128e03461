"""The extension that chooses the interpreter: here the host's, which is of the one supported version."""

load("//python/private:host.bzl", "ENVIRON", "host_interpreter")

_SUPPORTED = "3.11"

def _host_impl(rctx):
    rctx.symlink(host_interpreter(rctx), "python")
    rctx.file("BUILD.bazel", """exports_files(["python"], visibility = ["//visibility:public"])\n""", executable = False)

_host = repository_rule(
    implementation = _host_impl,
    doc = "The interpreter for other repository rules: `:python`.",
    environ = ENVIRON,
)

def _python_impl(mctx):
    for module in mctx.modules:
        for toolchain in module.tags.toolchain:
            if toolchain.python_version != _SUPPORTED:
                fail("python.toolchain: the offline world has Python {}, not {}".format(
                    _SUPPORTED,
                    toolchain.python_version,
                ))
    _host(name = "python_{}_host".format(_SUPPORTED.replace(".", "_")))

python = module_extension(
    implementation = _python_impl,
    tag_classes = {
        "toolchain": tag_class(attrs = {
            "is_default": attr.bool(default = False),
            "python_version": attr.string(mandatory = True),
        }),
    },
)
