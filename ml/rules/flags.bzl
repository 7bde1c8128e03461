"""Build settings: what the command line chooses, checked before anything runs."""

SettingInfo = provider(
    doc = "The value of a build setting.",
    fields = {"value": "a string, or a list of strings for list_flag"},
)

def _choice_flag_impl(ctx):
    value = ctx.build_setting_value
    if value not in ctx.attr.values:
        fail("--{}={}: expected one of {}".format(
            str(ctx.label).lstrip("@"),
            value,
            ", ".join(ctx.attr.values),
        ))
    return SettingInfo(value = value)

choice_flag = rule(
    implementation = _choice_flag_impl,
    build_setting = config.string(flag = True),
    attrs = {"values": attr.string_list(doc = "All that may be chosen.", mandatory = True)},
    doc = "One of a few strings: --//package:name=value.",
)

list_flag = rule(
    implementation = lambda ctx: SettingInfo(value = ctx.build_setting_value),
    build_setting = config.string_list(flag = True, repeatable = True),
    doc = "Any number of strings, each by a flag of its own, since a value may hold commas.",
)
