"""The extension that chooses the interpreter: here the host's, which is of the one supported version."""

_SUPPORTED = "3.11"

def _python_impl(mctx):
    for module in mctx.modules:
        for toolchain in module.tags.toolchain:
            if toolchain.python_version != _SUPPORTED:
                fail("python.toolchain: the offline world has Python {}, not {}".format(
                    _SUPPORTED,
                    toolchain.python_version,
                ))

python = module_extension(
    implementation = _python_impl,
    tag_classes = {
        "toolchain": tag_class(attrs = {
            "is_default": attr.bool(default = False),
            "python_version": attr.string(mandatory = True),
        }),
    },
)
