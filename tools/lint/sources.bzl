"""`sources()` hands a folder to the linters and scanners. The macros of //tools:defs.bzl call it; a BUILD file without them does."""

_KINDS = {
    "all_files": ["*"],
    "bazel_sources": ["BUILD.bazel", "MODULE.bazel", "*.bzl"],
    "python_sources": ["*.py"],
}

# What plain Python and editors leave beside the sources.
_LEFT_OVERS = ["**/__pycache__/**", "**/.*_cache/**", "**/.hypothesis/**", "**/.terraform/**"]

def sources(exclude = []):
    """Collects this folder's files, the Python and Bazel ones apart, and those of every package below it.

    A package without it breaks the build of the linters by name: each package asks the
    packages below it for these targets. So no file escapes ruff, mypy and buildifier.

    Args:
      exclude: folders that are no part of the project: modules of their own, output.
    """

    if native.package_name():
        excluded, within = [folder + "/**" for folder in exclude], ["**/"]
    else:
        # Not `**` in the root: the links bazel-* lead into the build's own output.
        excluded = ["bazel-*", ".*"] + exclude
        folders = native.glob(["*"], exclude = excluded, exclude_directories = 0)
        within = [""] + [folder + "/**/" for folder in folders]
    below = native.subpackages(
        include = [prefix + "*" for prefix in within],
        exclude = excluded,
        allow_empty = True,
    )
    hidden = {"all_files": _hidden_files()}
    for name, patterns in _KINDS.items():
        files = native.glob(
            [prefix + pattern for prefix in within for pattern in patterns],
            exclude = excluded + _LEFT_OVERS,
            allow_empty = True,
        )
        native.filegroup(
            name = name,
            testonly = False,  # whatever default the package has: the linters read tests, too
            srcs = files + hidden.get(name, []) + ["//%s:%s" % (_join(native.package_name(), folder), name) for folder in below],
            visibility = ["//visibility:public"],
        )

def _hidden_files():
    """Of the root, but for what git ignores and git's own."""
    if native.package_name():
        return []
    return native.glob(
        [".*", ".ci/**", ".devcontainer/**", ".dvc/*", ".dvc/plots/**", ".github/**", ".vscode/**"],
        exclude = [".bazelrc.user", ".git", ".env"],
        allow_empty = True,
    )

def _join(package, folder):
    return package + "/" + folder if package else folder
