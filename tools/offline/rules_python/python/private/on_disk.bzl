"""Programs whose packages stay where they are, rather than as 36,000 links in each sandbox."""

load(":built_in.bzl", "BuiltInPyInfo")

_PACKAGES = "/site-packages"

def _lies_on_disk(file):
    """Whether it is a wheel's file; what stands for it is the distribution's digest."""
    parts = file.short_path.split("/", 3)
    return parts[0] == ".." and len(parts) > 3 and parts[2] == "site-packages"

def _on_disk_impl(ctx):
    runfiles = ctx.runfiles().merge_all([dep[DefaultInfo].default_runfiles for dep in ctx.attr.deps])
    kept = [file for file in runfiles.files.to_list() if not _lies_on_disk(file)]
    imports = depset(transitive = [dep[BuiltInPyInfo].imports for dep in ctx.attr.deps]).to_list()
    return [
        DefaultInfo(runfiles = ctx.runfiles(
            files = kept,
            root_symlinks = {link.path: link.target_file for link in runfiles.root_symlinks.to_list()},
            symlinks = {link.path: link.target_file for link in runfiles.symlinks.to_list()},
        )),
        BuiltInPyInfo(
            imports = depset([
                entry.removesuffix(_PACKAGES) + "/on_disk" if entry.endswith(_PACKAGES) else entry
                for entry in imports
            ]),
            transitive_sources = depset([file for file in kept if file.extension == "py"]),
        ),
        coverage_common.instrumented_files_info(ctx, dependency_attributes = ["deps"]),
    ]

_on_disk = rule(
    implementation = _on_disk_impl,
    attrs = {"deps": attr.label_list(providers = [BuiltInPyInfo])},
    doc = "What `deps` bring, with a digest in place of each package's files.",
)

def packages_on_disk(attributes):
    """The attributes of a program, with packages by their digests.

    Args:
      attributes: of a py_binary or a py_test.

    Returns:
      the same with one dependency in place of all.
    """
    if not attributes.get("deps"):
        return attributes
    name = attributes["name"] + ".deps"
    inherited = {key: attributes[key] for key in ("target_compatible_with", "testonly") if key in attributes}
    _on_disk(
        name = name,
        tags = ["manual"],
        visibility = ["//visibility:private"],
        deps = attributes["deps"],
        **inherited
    )
    return attributes | {"deps": [":" + name]}
