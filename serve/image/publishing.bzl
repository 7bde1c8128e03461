"""Where an image goes and what it is called there: flags and stamps as files."""

def _string_setting_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(output, ctx.build_setting_value)
    return [DefaultInfo(files = depset([output]))]

_string_setting = rule(
    implementation = _string_setting_impl,
    build_setting = config.string(flag = True),
)

def string_setting(name, default = "", conditions = {}, **kwargs):
    """A flag of the command line, whose value is this target's file.

    Args:
      name: name of the flag.
      default: its value unless the command line has one.
      conditions: dict of names for select() and the values of the flag that they stand for.
      **kwargs: as for every rule.
    """
    _string_setting(name = name, build_setting_default = default, **kwargs)
    for condition, value in conditions.items():
        native.config_setting(name = condition, flag_values = {":" + name: value})

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

_stamped_tags = rule(
    implementation = _stamped_tags_impl,
    attrs = {"stamped": attr.bool(mandatory = True)},
)

def stamped_tags(name, **kwargs):
    """With --stamp the label of the build and the revision, one a line; else none.

    Args:
      name: name of the file.
      **kwargs: as for every rule.
    """
    _stamped_tags(
        name = name,
        stamped = select({
            "//tools/image:stamping": True,
            "//conditions:default": False,
        }),
        **kwargs
    )
