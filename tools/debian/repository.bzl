"""Programs that tests and local services run, as repositories unpacked from Debian packages.

    debian = use_extension("//tools/debian:repository.bzl", "debian")
    debian.package(
        name = "prometheus-alertmanager",
        programs = ["prometheus-alertmanager"],
        suite = "forky",
    )
    use_repo(debian, "debian_prometheus_alertmanager")

`@debian_prometheus_alertmanager//:prometheus-alertmanager` is then the program; //tools/debian:program finds it at run time. Nothing on the system
changes and no root is needed. Without apt the repository is there all the same, and its targets are notes that say so:
what needs the program looks on PATH, and else tests skip with the install command.
"""

_FILEGROUP = """\
filegroup(
    name = "{program}",
    srcs = ["{path}"],
    visibility = ["//visibility:public"],
)
"""

def _debian_package_impl(rctx):
    if rctx.which("apt-get") and rctx.which("dpkg-deb"):
        _unpack(rctx)
        folder = "root/usr/bin"
    else:
        folder = "missing"
        for program in rctx.attr.programs:
            rctx.file("missing/" + program, rctx.attr.package + "\n", executable = False)
    for program in rctx.attr.programs:
        if not rctx.path(folder).get_child(program).exists:
            fail("Debian's package {} has no usr/bin/{}".format(rctx.attr.package, program))
    rctx.file("BUILD.bazel", "\n".join([
        _FILEGROUP.format(path = folder + "/" + program, program = program)
        for program in rctx.attr.programs
    ]), executable = False)

def _unpack(rctx):
    python = rctx.getenv("KILN_PYTHON") or rctx.which("python3.11") or rctx.which("python3")
    if not python:
        fail("no Python on PATH: install Python 3.11")
    rctx.report_progress("Unpacking Debian's " + rctx.attr.package)
    result = rctx.execute(
        [
            python,
            "-B",
            rctx.path(rctx.attr._program),
            "unpack",
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
    if result.return_code:
        fail("Debian's package {} could not be unpacked:\n{}".format(rctx.attr.package, result.stderr.strip()))

_debian_package = repository_rule(
    implementation = _debian_package_impl,
    attrs = {
        "package": attr.string(mandatory = True),
        "programs": attr.string_list(mandatory = True),
        "suite": attr.string(mandatory = True),
        "_program": attr.label(default = "//tools/provision:debian.py"),
    },
    environ = [
        "HOME",
        "KILN_CACHE",
        "KILN_PYTHON",
        "XDG_CACHE_HOME",
    ],
)

def _debian_impl(mctx):
    for module in mctx.modules:
        for tag in module.tags.package:
            _debian_package(
                name = "debian_" + tag.name.replace("-", "_"),
                package = tag.name,
                programs = tag.programs or [tag.name],
                suite = tag.suite,
            )

debian = module_extension(
    implementation = _debian_impl,
    tag_classes = {
        "package": tag_class(attrs = {
            "name": attr.string(doc = "Debian's name of the package.", mandatory = True),
            "programs": attr.string_list(doc = "Files of its usr/bin; by default the one named as the package."),
            "suite": attr.string(doc = "Debian's release, for example bookworm.", mandatory = True),
        }),
    },
)
