"""Programs that tests and local services run, as repositories unpacked from Debian packages.

    debian = use_extension("//tools/debian:repository.bzl", "debian")
    debian.package(
        name = "prometheus-alertmanager",
        programs = ["prometheus-alertmanager"],
        suite = "forky",
    )
    use_repo(debian, "debian_prometheus_alertmanager")

`@debian_prometheus_alertmanager//:prometheus-alertmanager` is then the program; //common:programs finds it at run time. Nothing on the system
changes and no root is needed. The pinned suite comes first, so that machines differ little; where apt's sources do not offer it (Ubuntu's, say)
or there is no apt, the program of PATH stands under the same label. Where neither is there the label is a note that says why, and tests skip with
the install command. The repository is made anew once the program or another source of packages is there.
"""

load("//tools:programs.bzl", "program_on_path")

_FILEGROUP = """\
filegroup(
    name = "{program}",
    srcs = ["{path}"],
    visibility = ["//visibility:public"],
)
"""

# What --if-offered exits with.
_NOT_OFFERED = 3

def _debian_package_impl(rctx):
    why_not = _unpack(rctx)
    paths = {}
    for program in rctx.attr.programs:
        paths[program] = _place_of(rctx, program, why_not) if why_not else "root/usr/bin/" + program
        if not rctx.path(paths[program]).exists:
            fail("Debian's package {} has no usr/bin/{}".format(rctx.attr.package, program))
    rctx.file("BUILD.bazel", "\n".join([
        _FILEGROUP.format(path = path, program = program)
        for program, path in paths.items()
    ]), executable = False)

def _unpack(rctx):
    """Unpacks the package into `root`; the result is empty, or why the package is not to be had here."""
    if rctx.os.name != "linux":
        return "Debian's packages are for Linux"
    for name in ("apt-get", "dpkg-deb"):
        if not program_on_path(rctx, name):
            return "there is no {} here to unpack it with".format(name)
    rctx.watch(rctx.attr._program)  # from Bazel 8 on path() alone does not
    rctx.report_progress("Unpacking Debian's " + rctx.attr.package)
    result = rctx.execute(
        [
            rctx.path(rctx.attr._python),
            "-B",
            rctx.path(rctx.attr._program),
            "unpack",
            "--if-offered",
            "--suite",
            rctx.attr.suite,
            "--packages",
            rctx.attr.package,
            "--output",
            rctx.path("root"),
        ],
        quiet = False,
        timeout = 1800,
    )
    if result.return_code == _NOT_OFFERED:
        _watch_sources(rctx)
        return "apt's sources on this machine do not offer it (Debian {})".format(rctx.attr.suite)
    if result.return_code:
        fail("Debian's package {} could not be unpacked:\n{}".format(rctx.attr.package, result.stderr.strip()))
    return ""

def _watch_sources(rctx):
    """A new source of packages is a reason to ask again."""
    for name in ("sources.list", "sources.list.d"):
        path = rctx.path("/etc/apt/" + name)
        if path.exists and path.is_dir:
            rctx.watch_tree(path)
        else:
            rctx.watch(path)

def _place_of(rctx, program, why_not):
    """The program of PATH in the package's place, else a note; the result is where it lies."""
    for name in [program] + rctx.attr.other_names.get(program, []):
        found = program_on_path(rctx, name)
        if found:
            rctx.watch(found)  # once it goes, the link below is broken
            if _major(rctx, found) >= rctx.attr.major:
                rctx.symlink(found, "root/usr/bin/" + program)
                return "root/usr/bin/" + program
            why_not += ", and {} is older than version {}".format(found, rctx.attr.major)
    rctx.file("missing/" + program, rctx.attr.package + "\n" + why_not + "\n", executable = False)
    return "missing/" + program

def _major(rctx, program):
    """The number before the first dot of what `--version` prints; asked only where it matters."""
    if not rctx.attr.major:
        return 0
    words = rctx.execute([program, "--version"], timeout = 30).stdout.split()
    numbers = [word.split(".")[0] for word in words if "." in word and word.split(".")[0].isdigit()]
    return int(numbers[0]) if numbers else 0

_debian_package = repository_rule(
    implementation = _debian_package_impl,
    attrs = {
        "major": attr.int(),
        "other_names": attr.string_list_dict(),
        "package": attr.string(mandatory = True),
        "programs": attr.string_list(mandatory = True),
        "suite": attr.string(mandatory = True),
        "_program": attr.label(default = "//tools/provision:debian.py"),
        "_python": attr.label(default = "@python_3_11_host//:python"),
    },
    environ = [
        "APT_CONFIG",
        "HOME",
        "KILN_CACHE",
        "XDG_CACHE_HOME",
    ],
)

def _debian_impl(mctx):
    for module in mctx.modules:
        for tag in module.tags.package:
            _debian_package(
                name = "debian_" + tag.name.replace("-", "_"),
                major = tag.major,
                other_names = tag.other_names,
                package = tag.name,
                programs = tag.programs or [tag.name],
                suite = tag.suite,
            )

debian = module_extension(
    implementation = _debian_impl,
    tag_classes = {
        "package": tag_class(attrs = {
            "major": attr.int(doc = "Oldest major version that will do where PATH has to serve."),
            "name": attr.string(doc = "Debian's name of the package.", mandatory = True),
            "other_names": attr.string_list_dict(doc = "What others than Debian call a program."),
            "programs": attr.string_list(doc = "Files of its usr/bin; by default the one named as the package."),
            "suite": attr.string(doc = "Debian's release, for example bookworm.", mandatory = True),
        }),
    },
)
