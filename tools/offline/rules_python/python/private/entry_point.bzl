"""The main file of a console script."""

def _entry_point_impl(ctx):
    found = [file for file in ctx.files.dist_info if file.basename == "entry_points.txt"]
    if not found:
        fail("{} has no entry_points.txt, so no console scripts".format(ctx.attr.dist_info.label))
    args = ctx.actions.args()
    args.add_all([found[0], ctx.attr.script, ctx.outputs.out])
    ctx.actions.run(
        arguments = [args],
        executable = ctx.executable._tool,
        inputs = found,
        mnemonic = "PyConsoleScript",
        outputs = [ctx.outputs.out],
    )

entry_point = rule(
    implementation = _entry_point_impl,
    attrs = {
        "dist_info": attr.label(mandatory = True),
        "out": attr.output(mandatory = True),
        "script": attr.string(mandatory = True),
        "_tool": attr.label(
            cfg = "exec",
            default = "@@//tools/offline/pypi_hub:entry_point",
            executable = True,
        ),
    },
)
