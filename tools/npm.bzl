"""`npm_package`: a pinned package of npm, for repository rules."""

load("//tools:programs.bzl", "program_on_path")

def npm_package(rctx, name, version, integrity, output = "package"):
    """Unpacks a package. Where npm is missing, the repository is fetched again once it appears.

    Args:
        rctx: the repository's context.
        name: of the package.
        version: the one version.
        integrity: of its archive, as npm states it.
        output: the folder.

    Returns:
        whether there is an npm. Without one nothing is written.
    """
    npm = program_on_path(rctx, "npm")
    if not npm:
        return False
    packed = rctx.execute([npm, "pack", "--silent", "{}@{}".format(name, version)], timeout = 300)
    if packed.return_code:
        fail("npm could not fetch {}@{}:\n{}".format(name, version, packed.stderr))
    archive = "{}-{}.tgz".format(name.removeprefix("@").replace("/", "-"), version)
    rctx.download_and_extract(
        url = "file://{}".format(rctx.path(archive)),
        integrity = integrity,
        output = output,
        stripPrefix = "package",
    )
    rctx.delete(archive)
    return True
