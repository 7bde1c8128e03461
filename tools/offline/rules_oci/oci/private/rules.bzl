"""Rules that write, push and load OCI image layouts."""

_TARS = [".tar", ".tar.gz", ".tgz"]

def _oci_image_impl(ctx):
    output = ctx.actions.declare_directory(ctx.label.name)
    digest = ctx.actions.declare_file(ctx.label.name + ".json.sha256")
    settings = ctx.actions.declare_file(ctx.label.name + ".settings.json")
    ctx.actions.write(settings, ctx.attr.settings)

    args = ctx.actions.args()
    inputs = [settings] + ctx.files.tars
    if ctx.attr.base:
        args.add("--base", ctx.file.base.path)
        inputs.append(ctx.file.base)
    else:
        args.add("--platform", ctx.attr.os + "/" + ctx.attr.architecture)
    for tar in ctx.files.tars:
        args.add("--layer", tar)
        args.add("--created-by", tar.owner)
    for name in ["annotations", "env", "labels"]:
        file = getattr(ctx.file, name)
        if file:
            args.add("--{}-file".format(name), file)
            inputs.append(file)
    args.add("--settings", settings)
    args.add("--output", output.path)
    args.add("--digest", digest)
    ctx.actions.run(
        arguments = [args],
        executable = ctx.executable._tool,
        inputs = inputs,
        mnemonic = "OCIImage",
        outputs = [output, digest],
        progress_message = "OCI Image %{label}",
    )
    return [
        DefaultInfo(files = depset([output])),
        OutputGroupInfo(digest = depset([digest])),
    ]

image = rule(
    implementation = _oci_image_impl,
    attrs = {
        "annotations": attr.label(allow_single_file = True),
        "architecture": attr.string(),
        "base": attr.label(allow_single_file = True),
        "env": attr.label(allow_single_file = True),
        "labels": attr.label(allow_single_file = True),
        "os": attr.string(),
        "settings": attr.string(mandatory = True),
        "tars": attr.label_list(allow_files = _TARS),
        "_tool": attr.label(
            cfg = "exec",
            default = "@@//tools/offline/oci_layout:image",
            executable = True,
        ),
    },
)

_RUN = """\
#!/bin/sh
# Runfiles: beside this file when it is run by itself, else those of whoever runs it.
case $0 in /*) self=$0 ;; *) self=$PWD/$0 ;; esac
if [ -d "$self.runfiles" ]; then
    RUNFILES_DIR=$self.runfiles
fi
export RUNFILES_DIR="${{RUNFILES_DIR:-$TEST_SRCDIR}}"
cd "$RUNFILES_DIR" || exit 1
exec {command} "$@"
"""

def _in_runfiles(ctx, file):
    path = file.short_path
    return path[3:] if path.startswith("../") else ctx.workspace_name + "/" + path

def _runner(ctx, tool, files, options):
    """An executable that runs `tool` with `options`: files by option, found in the runfiles."""
    words = ["\"$RUNFILES_DIR/{}\"".format(_in_runfiles(ctx, tool[DefaultInfo].files_to_run.executable))]
    for option, value in options.items():
        if type(value) == type(""):
            words.append("{} '{}'".format(option, value))
        else:
            words.append("{} \"$RUNFILES_DIR/{}\"".format(option, _in_runfiles(ctx, value)))
    executable = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(executable, _RUN.format(command = " ".join(words)), is_executable = True)
    runfiles = ctx.runfiles(files).merge(tool[DefaultInfo].default_runfiles)
    return DefaultInfo(executable = executable, runfiles = runfiles)

def _oci_push_impl(ctx):
    files = [ctx.file.image, ctx.file._crane]
    options = {"--crane": ctx.file._crane, "--image": ctx.file.image}
    if ctx.attr.repository:
        options["--repository"] = ctx.attr.repository
    elif ctx.file.repository_file:
        options["--repository-file"] = ctx.file.repository_file
        files.append(ctx.file.repository_file)
    if ctx.file.remote_tags:
        options["--remote-tags"] = ctx.file.remote_tags
        files.append(ctx.file.remote_tags)
    return [_runner(ctx, ctx.attr._tool, files, options)]

push = rule(
    implementation = _oci_push_impl,
    attrs = {
        "image": attr.label(allow_single_file = True, mandatory = True),
        "remote_tags": attr.label(allow_single_file = True),
        "repository": attr.string(),
        "repository_file": attr.label(allow_single_file = True),
        "_crane": attr.label(allow_single_file = True, default = "@@//tools/offline/oci_layout:crane"),
        "_tool": attr.label(default = "@@//tools/offline/oci_layout:push"),
    },
    executable = True,
)

def _oci_load_impl(ctx):
    tarball = ctx.actions.declare_file(ctx.label.name + "/tarball.tar")
    ctx.actions.run(
        arguments = ["--image", ctx.file.image.path, "--repo-tags", ctx.file.repo_tags.path, "--output", tarball.path],
        executable = ctx.executable._tool,
        inputs = [ctx.file.image, ctx.file.repo_tags],
        mnemonic = "OCITarball",
        outputs = [tarball],
    )
    options = {"--image": ctx.file.image, "--repo-tags": ctx.file.repo_tags}
    return [
        _runner(ctx, ctx.attr._runtime_tool, [ctx.file.image, ctx.file.repo_tags], options),
        OutputGroupInfo(tarball = depset([tarball])),
    ]

load_image = rule(
    implementation = _oci_load_impl,
    attrs = {
        "image": attr.label(allow_single_file = True, mandatory = True),
        "repo_tags": attr.label(allow_single_file = True, mandatory = True),
        "_runtime_tool": attr.label(default = "@@//tools/offline/oci_layout:load"),
        "_tool": attr.label(
            cfg = "exec",
            default = "@@//tools/offline/oci_layout:load",
            executable = True,
        ),
    },
    executable = True,
)

def _copied_layout_impl(ctx):
    output = ctx.actions.declare_directory(ctx.label.name)
    folder = [file.dirname for file in ctx.files.srcs if file.basename == "oci-layout"][0]
    ctx.actions.run_shell(
        arguments = [folder, output.path],
        command = 'cp -RL "$1/." "$2"',
        inputs = ctx.files.srcs,
        mnemonic = "OCILayout",
        outputs = [output],
    )
    return [DefaultInfo(files = depset([output]))]

copied_layout = rule(
    implementation = _copied_layout_impl,
    attrs = {"srcs": attr.label_list(allow_files = True)},
    doc = "A layout's files as the one folder that rules take.",
)

def _lines_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(output, "".join([line + "\n" for line in ctx.attr.lines]))
    return [DefaultInfo(files = depset([output]))]

lines = rule(
    implementation = _lines_impl,
    attrs = {"lines": attr.string_list()},
    doc = "A file of these lines.",
)
