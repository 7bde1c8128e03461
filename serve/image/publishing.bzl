"""Where an image goes and what it is called there: flags and stamps as files."""

def _string_setting_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(output, ctx.build_setting_value)
    return [DefaultInfo(files = depset([output]))]

string_setting = rule(
    implementation = _string_setting_impl,
    build_setting = config.string(flag = True),
    doc = "A flag of the command line, whose value is this target's file.",
)

def _stamped_tags_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".txt")
    if ctx.attr.stamped:
        ctx.actions.run_shell(
            arguments = [ctx.info_file.path, output.path],
            # A tag: at most 128 letters, digits, and _ . - inside.
            command = "sed -n 's/^BUILD_EMBED_LABEL //p; s/^STABLE_REVISION /git-/p' \"$1\" | tr ' ' '\\n' | " +
                      "sed 's/[^A-Za-z0-9_.-]/-/g; s/^[.-]*//; s/^\\(.\\{128\\}\\).*/\\1/; /^$/d' > \"$2\"",
            inputs = [ctx.info_file],
            mnemonic = "ImageTags",
            outputs = [output],
        )
    else:
        ctx.actions.write(output, "")
    return [DefaultInfo(files = depset([output]))]

stamped_tags = rule(
    implementation = _stamped_tags_impl,
    attrs = {"stamped": attr.bool(mandatory = True)},
    doc = "With --stamp the label of the build and the revision, one a line; else none.",
)
