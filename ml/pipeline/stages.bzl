"""`stage`: a stage of dvc.yaml, which runs again when a file changes that its program is made of."""

load("//tools:defs.bzl", "py_binary", "py_library")

def _own(file):
    """The path of a source file of the main repository; nothing for all other files."""
    if file.is_source and not file.short_path.startswith("../"):
        return file.short_path
    return None

def _sources_list_impl(ctx):
    lines = ctx.actions.args()
    lines.set_param_file_format("multiline")
    lines.add_all(ctx.attr.program[DefaultInfo].default_runfiles.files, map_each = _own)
    output = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(output, lines)
    return DefaultInfo(files = depset([output]))

_sources_list = rule(
    implementation = _sources_list_impl,
    attrs = {"program": attr.label(
        doc = "What to list: its own files, those of all its deps, and their data.",
        mandatory = True,
    )},
    doc = "A file of the rule's name with a path a line. External packages are not listed; the lock stands for them.",
)

def stage(name, deps, data = []):
    """A program, NAME_lib that it consists of, and NAME.sources, which lists its files for DVC.

    Args:
      name: name of the stage, and of its module.
      deps: as for py_library, beside the layout of the stages' files.
      data: files that the program alone reads.
    """
    py_library(
        name = name + "_lib",
        srcs = [name + ".py"],
        data = ["//:requirements_lock.txt"],
        deps = deps + [":layout"],
    )
    py_binary(
        name = name,
        data = data,
        deps = [":%s_lib" % name],
    )
    _sources_list(
        name = name + ".sources",
        program = ":" + name,
    )
