"""CIFAR-10 as the repository @cifar10, so that build actions and tests can name its files.

    cifar10 = use_extension("//ml/data:repository.bzl", "cifar10")
    use_repo(cifar10, "cifar10")

`@cifar10//:cifar10` is both files, `@cifar10//:train.bin` and `@cifar10//:test.bin` are one each. They are hard links
into the machine's cache where the file system allows; //ml/data:fetch.py fills that cache, once per machine.
"""

_BUILD = """\
package(default_visibility = ["//visibility:public"])

exports_files([
    "test.bin",
    "train.bin",
])

filegroup(
    name = "cifar10",
    srcs = [
        "test.bin",
        "train.bin",
    ],
)
"""

def _cifar10_repository_impl(rctx):
    pin = rctx.path(rctx.attr._pin)
    program = rctx.path(rctx.attr._program)
    for source in [rctx.attr._pin, rctx.attr._program] + rctx.attr._modules:
        rctx.watch(source)  # a change asks for a new fetch; from Bazel 8 on path() alone does not see to that

    rctx.report_progress("Fetching CIFAR-10, once per machine")
    result = rctx.execute(
        [rctx.path(rctx.attr._python), "-B", program, "--pin", pin, "--output", rctx.path(".")],
        quiet = False,  # people see what is downloaded
        timeout = 3600,
        working_directory = str(rctx.workspace_root),  # where a relative KILN_DVC_REMOTE starts
    )
    if result.return_code:
        # All that the program said is on the screen; its last message is the reason.
        fail("@cifar10, exit status {}: {}".format(result.return_code, result.stderr.split("cifar10: ")[-1]))
    rctx.file("BUILD.bazel", _BUILD, executable = False)

_cifar10_repository = repository_rule(
    implementation = _cifar10_repository_impl,
    attrs = {
        "_modules": attr.label_list(
            default = [
                "//common:files.py",
                "//ml/data:cifar10_files.py",
                "//ml/data:source.py",
                "//ml/data:source_dvc.py",
            ],
        ),
        "_pin": attr.label(default = "//ml/data:cifar10.dvc"),
        "_program": attr.label(default = "//ml/data:fetch.py"),
        "_python": attr.label(default = "@python_3_11_host//:python"),
    },
    # PATH, too, reaches the program (npm, aws and dvc are looked up there), but a new PATH is no reason to fetch anew.
    environ = [
        "HOME",
        "KILN_CACHE",
        "KILN_DVC_REMOTE",
        "XDG_CACHE_HOME",
    ],
    doc = "The two files that //ml/data:cifar10.dvc pins.",
)

def _cifar10_impl(mctx):
    _cifar10_repository(name = "cifar10")
    return mctx.extension_metadata(
        reproducible = True,
        root_module_direct_deps = ["cifar10"],
        root_module_direct_dev_deps = [],
    )

cifar10 = module_extension(
    implementation = _cifar10_impl,
    doc = "Makes the repository @cifar10.",
)
