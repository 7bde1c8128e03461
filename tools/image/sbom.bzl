"""`image_sbom`: an image's bill of materials as a build output."""

def _image_sbom_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".cdx.json")
    args = ctx.actions.args()
    args.add("--image", ctx.file.image.path)
    args.add("--lock", ctx.file.lock)
    args.add("--name", ctx.attr.title)
    args.add("--output", output)
    ctx.actions.run(
        arguments = [args],
        executable = ctx.executable._sbom,
        # A layout's blobs may be links to other files, which are its runfiles.
        inputs = depset([ctx.file.image, ctx.file.lock], transitive = [ctx.attr.image[DefaultInfo].default_runfiles.files]),
        mnemonic = "ImageSbom",
        outputs = [output],
    )
    return [DefaultInfo(files = depset([output]))]

image_sbom = rule(
    implementation = _image_sbom_impl,
    attrs = {
        "image": attr.label(allow_single_file = True, mandatory = True),
        "lock": attr.label(allow_single_file = True, mandatory = True),
        "title": attr.string(mandatory = True),
        "_sbom": attr.label(cfg = "exec", default = "//tools/image:sbom", executable = True),
    },
    doc = "CycloneDX JSON.",
)
