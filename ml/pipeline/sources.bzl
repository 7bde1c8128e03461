"""`sources_list`: the files of this repository that a program is made of, as Bazel knows them."""

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

sources_list = rule(
    implementation = _sources_list_impl,
    attrs = {"program": attr.label(
        doc = "What to list: its own files, those of all its deps, and their data.",
        mandatory = True,
    )},
    doc = "A file of the rule's name with a path a line. External packages are not listed; the lock stands for them.",
)
