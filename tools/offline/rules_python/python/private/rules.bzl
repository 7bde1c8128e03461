"""What py_binary, py_library and py_test share: Bazel's built-in rules with upstream's attributes."""

# Upstream's rules are the only callers that --incompatible_python_disallow_native_rules lets through; so are these.
_MIGRATION_TAG = "__PYTHON_RULES_MIGRATION_DO_NOT_USE_WILL_BREAK__"

_COMMON = [
    "compatible_with",
    "deprecation",
    "exec_compatible_with",
    "exec_properties",
    "features",
    "name",
    "restricted_to",
    "tags",
    "target_compatible_with",
    "testonly",
    "toolchains",
    "visibility",
]

LIBRARY_ATTRIBUTES = _COMMON + ["data", "deps", "imports", "srcs"]

BINARY_ATTRIBUTES = LIBRARY_ATTRIBUTES + ["args", "env", "legacy_create_init", "main", "stamp"]

TEST_ATTRIBUTES = BINARY_ATTRIBUTES + ["env_inherit", "flaky", "local", "shard_count", "size", "timeout"]

def checked(rule, known, attributes):
    """The attributes for the built-in rule.

    Args:
        rule: name of the rule, for the message.
        known: attributes that this module passes on.
        attributes: what the BUILD file says.

    Returns:
        a dict of keyword arguments.
    """
    unknown = [name for name in attributes if name not in known]
    if unknown:
        fail("{}({}): the offline rules_python does not have {}; add it to tools/offline/rules_python".format(
            rule,
            attributes.get("name"),
            ", ".join(unknown),
        ))
    tags = attributes.get("tags") or []
    return attributes | {"tags": tags + [_MIGRATION_TAG]}
