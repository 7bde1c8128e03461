"""Public entry point for py_console_script_binary."""

load("//python:py_binary.bzl", "py_binary")
load("//python/private:entry_point.bzl", "entry_point")

def py_console_script_binary(*, name, pkg, script = None, binary_rule = py_binary, **kwargs):
    """A binary that runs a console script of a package.

    Args:
      name: name of the binary.
      pkg: the package, for example @pypi//pygments.
      script: the console script, by default the one named as the binary.
      binary_rule: rule or macro to make the binary with.
      **kwargs: as for py_binary; `deps` are added to the package.
    """
    main = name + "_entry_point.py"
    entry_point(
        name = name + "_gen__",
        dist_info = native.package_relative_label(pkg).same_package_label("dist_info"),
        out = main,
        script = script or name,
    )
    binary_rule(
        name = name,
        srcs = [main],
        main = main,
        deps = [pkg] + kwargs.pop("deps", []),
        **kwargs
    )
