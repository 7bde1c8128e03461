"""Layers of images, as `tars` of an oci_image: the same bytes from the same files.

    packages_layer(name = "packages", deps = [":server"])          # changes with the lock
    files_layer(name = "model_layer", files = {":model": "opt/model/model.onnx"})
    sources_layer(name = "application", deps = [":server"])        # kilobytes, changes with the code
"""

load("@rules_python//python:py_info.bzl", "PyInfo")

# What the base image is made for. Wheels are those of the machine that is built for, and another machine's would not
# run there: targets that pack them, or bytes of the base, are compatible with nothing else, and `//...` passes them over.
LINUX_X86_64 = [
    "@platforms//cpu:x86_64",
    "@platforms//os:linux",
]

# What every image starts from: an interpreter without a shell.
BASE = "@distroless_python3_linux_amd64"

# Where both the base image's interpreter and that of Debian look by themselves.
SITE_PACKAGES = "usr/local/lib/python3.11/dist-packages"

_BUNDLED_TESTS = ["tests/*", "*/tests/*"]

def is_of_a_venv(short_path):
    """Whether a file only arranges others for a py_binary.

    From Bazel 8 on rules_python makes a virtual environment for every py_binary, `_NAME.venv` beside it: an interpreter
    that is a link to nowhere outside of runfiles, links to what libraries bring, and a .pth file. Layers take the
    libraries' own files from their own places, so that they are the same under every major version of Bazel.

    Args:
      short_path: of the file.

    Returns:
      Whether the file lies in such a folder.
    """
    for part in short_path.split("/")[:-1]:
        if part.startswith("_") and part.endswith(".venv"):
            return True
    return False

def wheel_place(short_path):
    """Where pip would put a file of a wheel.

    Args:
      short_path: of the file.

    Returns:
      The place within site-packages; None for a file of anything but a wheel's repository, be it an interpreter's own
      site-packages.
    """
    parts = short_path.split("/", 3)
    if len(parts) == 4 and parts[0] == ".." and parts[2] == "site-packages":
        return parts[3]
    return None

def _installed(file):
    return "{}={}".format(wheel_place(file.short_path), file.path)

def _own(file):
    return "{}={}".format(file.short_path, file.path)

def _write(ctx, args, inputs):
    output = ctx.actions.declare_file(ctx.label.name + ".tar.gz")
    args.add("--folder", ctx.attr.folder)
    args.add("--effort", getattr(ctx.attr, "effort", 6))
    args.add("--output", output)
    args.add_all(getattr(ctx.attr, "exclude", []), before_each = "--exclude")
    args.add_all(getattr(ctx.attr, "only", []), before_each = "--only")
    args.use_param_file("@%s", use_always = True)
    args.set_param_file_format("multiline")
    ctx.actions.run(
        arguments = [args],
        # Strings in sets are compiled in the order of their hashes.
        env = {"PYTHONHASHSEED": "0"},
        executable = ctx.executable._layer,
        inputs = inputs,
        mnemonic = "ImageLayer",
        outputs = [output],
        progress_message = "Image layer %{label}",
    )
    return [DefaultInfo(files = depset([output]))]

def _closure(ctx):
    runfiles = depset(transitive = [dep[DefaultInfo].default_runfiles.files for dep in ctx.attr.deps])
    return [file for file in runfiles.to_list() if not is_of_a_venv(file.short_path)]

def _packages_layer_impl(ctx):
    # Only these are inputs, so that an edit of our own code does not even ask for this layer again.
    files = [file for file in _closure(ctx) if wheel_place(file.short_path)]
    args = ctx.actions.args()
    args.add("--compile")
    args.add_all(_BUNDLED_TESTS, before_each = "--exclude")
    args.add_all(files, map_each = _installed)
    return _write(ctx, args, files)

def _sources_layer_impl(ctx):
    files = [file for file in _closure(ctx) if not file.short_path.startswith("../")]
    args = ctx.actions.args()
    args.add("--compile")
    args.add_all(files, map_each = _own)
    return _write(ctx, args, files)

def _files_layer_impl(ctx):
    args = ctx.actions.args()
    for target, place in ctx.attr.files.items():
        files = target[DefaultInfo].files.to_list()
        if len(files) != 1:
            fail("{} is {} files, expected one".format(target.label, len(files)))
        args.add(files[0], format = place + "=%s")
    return _write(ctx, args, ctx.files.files)

def _base_bytecode_layer_impl(ctx):
    args = ctx.actions.args()
    args.add("--base", ctx.file.base.path)

    # A layout's blobs may be links to other files, which are its runfiles.
    return _write(ctx, args, depset([ctx.file.base], transitive = [ctx.attr.base[DefaultInfo].default_runfiles.files]))

_FOLDER = attr.string(doc = "Of the image, below which the files are put.")
_LAYER = {"_layer": attr.label(cfg = "exec", default = "//tools/image:layer", executable = True)}
_PYTHON = _LAYER | {
    "deps": attr.label_list(
        doc = "Python libraries: all that they need, data too.",
        mandatory = True,
        providers = [PyInfo],
    ),
    "exclude": attr.string_list(doc = "Shell patterns of paths within the folder; * also matches a slash."),
}

_packages_layer = rule(
    implementation = _packages_layer_impl,
    attrs = _PYTHON | {
        "folder": attr.string(default = SITE_PACKAGES),
        "effort": attr.int(default = 6, doc = "Of gzip, from 1, quick, to 9, small."),
        "only": attr.string_list(doc = "Shell patterns as for `exclude`: the layer holds nothing else."),
    },
)

def packages_layer(name, **kwargs):
    """The wheels that `deps` need, flat as pip would install them, with bytecode.

    Args:
      name: name of the layer.
      **kwargs: deps, exclude, only, effort, folder, and what every rule has.
    """
    _packages_layer(name = name, target_compatible_with = LINUX_X86_64, **kwargs)

sources_layer = rule(
    implementation = _sources_layer_impl,
    attrs = _PYTHON | {"folder": attr.string(mandatory = True)},
    doc = "What `deps` need of this repository, with bytecode.",
)

files_layer = rule(
    implementation = _files_layer_impl,
    attrs = _LAYER | {
        "files": attr.label_keyed_string_dict(
            allow_files = True,
            doc = "Path in the image by target.",
            mandatory = True,
        ),
        "folder": _FOLDER,
    },
)

_base_bytecode_layer = rule(
    implementation = _base_bytecode_layer_impl,
    attrs = _LAYER | {
        "base": attr.label(allow_single_file = True, default = BASE),
        "folder": attr.string(default = "usr/lib/python3.11"),
    },
)

def base_bytecode_layer(name, **kwargs):
    """The standard library compiled: bases carry its sources only, and roots are read-only.

    Args:
      name: name of the layer.
      **kwargs: base, folder, and what every rule has.
    """
    _base_bytecode_layer(name = name, target_compatible_with = LINUX_X86_64, **kwargs)
