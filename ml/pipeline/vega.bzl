"""`@vega`: the libraries that draw the pages of `dvc plots`, in the versions that DVC asks for, from npm."""

load("//tools:npm.bzl", "npm_package")

_PACKAGES = {
    "vega": ("5.20.2", "sha512-qmH7aD9GGPpssVdxL1xgcdxTbQzyRUeRR16Os385ymvQhiwCYQNA6+eXUPAZDTVLfk0RXu6Jzj6kUE5jQ80EVw=="),
    "vega-embed": ("6.18.2", "sha512-wcDyQPE4J5aiCDc3/suH5RQDvrKkjuLkhzUcbOLwEkNF8/+pp17tS0JghzEvAPNRg+5aG1/N2ydixq8Lk3dOlg=="),
    "vega-lite": ("5.2.0", "sha512-Yxcg8MvYfxHcG6BbkaKT0oVCIMIcE19UvqIsEwBmyd/7h2nzW7oRnID81T8UrY7hpDrIr6wa2JADOT2dhGNErw=="),
}
_BUILD = """exports_files(["vega.js", "vega-embed.js", "vega-lite.js"])\n"""

def _vega_impl(rctx):
    rctx.file("BUILD.bazel", _BUILD, executable = False)
    for name, (version, integrity) in _PACKAGES.items():
        if npm_package(rctx, name, version, integrity, "package/" + name):
            rctx.symlink("package/{0}/build/{0}.min.js".format(name), name + ".js")
        else:
            rctx.file(name + ".js", "", executable = False)  # the page asks the network instead, as DVC's own does

_repository = repository_rule(
    implementation = _vega_impl,
    doc = "vega.js, vega-lite.js and vega-embed.js; empty where there is no npm.",
)

def _extension_impl(_mctx):
    _repository(name = "vega")

vega = module_extension(implementation = _extension_impl)
