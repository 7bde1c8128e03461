"""`closure`: the files of this repository that a program is made of, which is what an action that runs it is keyed by."""

def _own(file):
    return None if file.short_path.startswith("../") else file.short_path

def _closure_impl(ctx):
    listing = ctx.actions.declare_file(ctx.label.name)
    files = ctx.actions.args()
    files.set_param_file_format("multiline")
    files.add_all(ctx.attr.program[DefaultInfo].default_runfiles.files, map_each = _own)
    ctx.actions.write(listing, files)
    return [DefaultInfo(files = depset([listing]))]

closure = rule(
    implementation = _closure_impl,
    attrs = {"program": attr.label(mandatory = True)},
    doc = "A file that lists them, one path a line.",
)
