"""`image_labels`: the labels of an image, which say in release builds what it was made from."""

# Lines of the stamp, and the labels of the OCI image specification (annotations.md) that they become.
_STAMPED = {
    "STABLE_COMMITTED": "created",
    "STABLE_GIT_REVISION": "revision",
    "STABLE_SOURCE": "source",
}

def _image_labels_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".txt")
    given = "".join(["%s=%s\n" % pair for pair in sorted(ctx.attr.labels.items())])
    if ctx.attr.stamped:
        edits = ["s/^%s /org.opencontainers.image.%s=/p" % pair for pair in sorted(_STAMPED.items())]
        ctx.actions.run_shell(
            arguments = [given, "; ".join(edits), ctx.info_file.path, output.path],
            command = "{ printf %s \"$1\"; sed -n \"$2\" \"$3\"; } > \"$4\"",
            inputs = [ctx.info_file],
            mnemonic = "ImageLabels",
            outputs = [output],
        )
    else:
        ctx.actions.write(output, given)
    return [DefaultInfo(files = depset([output]))]

_image_labels = rule(
    implementation = _image_labels_impl,
    attrs = {
        "labels": attr.string_dict(),
        "stamped": attr.bool(mandatory = True),
    },
    doc = "Lines name=value, as `labels` of oci_image takes them.",
)

def image_labels(name, labels, **kwargs):
    """Labels for `oci_image(labels = ":name")`; with --stamp also source, revision and the commit's time.

    Args:
      name: name of the file.
      labels: dict of what holds for every build.
      **kwargs: as for every rule.
    """
    _image_labels(
        name = name,
        labels = labels,
        stamped = select({
            "//tools/image:stamping": True,
            "//conditions:default": False,
        }),
        **kwargs
    )
