"""`api_pages`: a folder of HTML about Python modules, as a build output; `bazel run` copies it."""

_COPY = """#!/bin/sh
# Copies the pages to a folder, named as seen from where the command was typed.
set -eu
pages={pages} # `bazel run` starts programs among their runfiles
case "${{1-}}" in
"" | -*)
    echo "usage: bazel run {label} -- FOLDER    copies the pages there; FOLDER/index.html opens from disk"
    [ "${{1-}}" = --help ] || [ "${{1-}}" = -h ] || exit 2
    exit 0
    ;;
esac
cd "${{BUILD_WORKING_DIRECTORY:-$PWD}}"
if [ -n "$(ls -A "$1" 2>/dev/null)" ]; then
    if ! grep -qs 'content="kiln api_docs"' "$1/index.html"; then
        echo "$1 has files that are not of these pages: name a new or an empty folder" >&2
        exit 2
    fi
    rm -f "$1"/*.html # of modules that are gone
fi
mkdir -p "$1"
cp -RLf "$OLDPWD/$pages/." "$1"
chmod -R u+w "$1"
echo "$(cd "$1" && pwd)/index.html"
"""

def _api_pages_impl(ctx):
    pages = ctx.actions.declare_directory(ctx.label.name)
    arguments = ctx.actions.args()
    arguments.add("--outline", ctx.file.outline)
    arguments.add_all("--output", [pages], expand_directories = False)
    arguments.add_all(ctx.files.srcs)
    arguments.use_param_file("@%s", use_always = True)
    arguments.set_param_file_format("multiline")
    ctx.actions.run(
        executable = ctx.executable._tool,
        mnemonic = "KilnApiPages",
        progress_message = "Writing the pages %{label}",
        inputs = ctx.files.srcs + [ctx.file.outline],
        outputs = [pages],
        arguments = [arguments],
        use_default_shell_env = True,
    )
    copy = ctx.actions.declare_file(ctx.label.name + "_copy.sh")
    label = "//{}:{}".format(ctx.label.package, ctx.label.name)
    ctx.actions.write(copy, _COPY.format(pages = pages.short_path, label = label), is_executable = True)
    return [DefaultInfo(
        executable = copy,
        files = depset([pages]),
        runfiles = ctx.runfiles(files = [pages]),
    )]

api_pages = rule(
    implementation = _api_pages_impl,
    doc = "Pages about modules that open from disk. Equal sources give equal bytes: nothing is imported.",
    attrs = {
        "outline": attr.label(
            doc = "TOML: what the index says.",
            allow_single_file = [".toml"],
            mandatory = True,
        ),
        "srcs": attr.label_list(
            doc = "Modules, all in folders of this repository.",
            allow_files = [".py"],
            mandatory = True,
        ),
        "_tool": attr.label(
            default = "//tools/api_docs",
            executable = True,
            cfg = "exec",
        ),
    },
    executable = True,
)
