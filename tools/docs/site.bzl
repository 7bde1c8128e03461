"""`site`: a folder of HTML about the files of the repository, as a build output; `bazel run` copies it."""

_SHOWN = ("md", "png", "svg", "toml", "yaml")

_COPY = """#!/bin/sh
# Copies the site to a folder, named as seen from where the command was typed.
set -eu
site=$PWD/{site} # `bazel run` starts programs among their runfiles
case "${{1-}}" in
"" | -*)
    echo "usage: bazel run {label} -- FOLDER    copies the site there; FOLDER/index.html opens from disk"
    [ "${{1-}}" = --help ] || exit 2
    exit 0
    ;;
esac
cd "${{BUILD_WORKING_DIRECTORY:-$PWD}}"
if [ -n "$(ls -A "$1" 2>/dev/null)" ]; then
    if [ ! -e "$1/search/search_index.json" ]; then
        echo "$1 has files that are not of this site: name a new or an empty folder" >&2
        exit 2
    fi
    find "$1" -name '*.html' -delete # of pages that are gone
fi
mkdir -p "$1"
cp -RLf "$site/." "$1"
chmod -R u+w "$1"
echo "$(cd "$1" && pwd)/index.html"
"""

def _is_shown(file):
    """Pages, images, configurations, and modules other than tests; nothing of hidden folders."""
    if file.short_path.startswith("."):
        return False
    if file.extension == "py":
        return not file.short_path.startswith("tests/")
    return file.extension in _SHOWN or file.basename == "LICENSE"

def _site_impl(ctx):
    site = ctx.actions.declare_directory(ctx.label.name)
    shown = [file for file in ctx.files.srcs if _is_shown(file)]
    arguments = ctx.actions.args()
    arguments.add_all("--output", [site], expand_directories = False)
    arguments.add_all(ctx.files.scripts, before_each = "--script")
    arguments.add_all(shown)
    arguments.use_param_file("@%s", use_always = True)
    arguments.set_param_file_format("multiline")
    ctx.actions.run(
        executable = ctx.executable._tool,
        mnemonic = "KilnSite",
        progress_message = "Building the site %{label}",
        inputs = shown + ctx.files.scripts + [ctx.file._config],
        outputs = [site],
        arguments = [arguments],
        use_default_shell_env = True,
    )
    copy = ctx.actions.declare_file(ctx.label.name + "_copy.sh")
    label = "//{}:{}".format(ctx.label.package, ctx.label.name)
    ctx.actions.write(copy, _COPY.format(site = site.short_path, label = label), is_executable = True)
    return [DefaultInfo(
        executable = copy,
        files = depset([site]),
        runfiles = ctx.runfiles(files = [site]),
    )]

site = rule(
    implementation = _site_impl,
    doc = "Pages that open from disk and load nothing from elsewhere. Equal sources give equal bytes.",
    attrs = {
        "scripts": attr.label_list(
            doc = "What browsers run besides the theme; empty files count as missing.",
            allow_files = [".js"],
        ),
        "srcs": attr.label_list(
            doc = "Files of this repository: pages, modules, configurations and images are taken.",
            allow_files = True,
            mandatory = True,
        ),
        "_config": attr.label(
            default = "//docs:mkdocs.yml",
            allow_single_file = True,
        ),
        "_tool": attr.label(
            default = "//tools/docs:build_site",
            executable = True,
            cfg = "exec",
        ),
    },
    executable = True,
)
