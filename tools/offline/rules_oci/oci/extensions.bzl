"""The extension that gives base images."""

load("//oci/private:pull.bzl", "ASSEMBLED", "base", "chosen")

_PLATFORM = "linux/amd64"

def _oci_impl(mctx):
    for module in mctx.modules:
        for pull in module.tags.pull:
            if pull.image not in ASSEMBLED:
                fail("oci.pull: the offline world has no {}, only {}".format(pull.image, ", ".join(ASSEMBLED)))
            if pull.platforms != [_PLATFORM]:
                fail("oci.pull: the offline world has platforms = [\"{}\"] only".format(_PLATFORM))
            name = pull.name + "_" + _PLATFORM.replace("/", "_")
            base(name = name, target = name)
            chosen(name = pull.name, actual = "@{0}//:{0}".format(name), target = pull.name)

oci = module_extension(
    implementation = _oci_impl,
    tag_classes = {
        "pull": tag_class(attrs = {
            "digest": attr.string(),
            "image": attr.string(mandatory = True),
            "name": attr.string(mandatory = True),
            "platforms": attr.string_list(),
        }),
    },
)
