"""A py_binary's virtual environment as rules_python 2 lays it out from Bazel 8 on, for tests of layers."""

def _venv_impl(ctx):
    root = "_{}.venv".format(ctx.label.name)
    installed = root + "/lib/python3.11/site-packages"
    links = {
        root + "/bin/python3": "../../../interpreter/bin/python3",  # leads nowhere but in runfiles
        installed + "/linked.py": "../../../../../layered.py",
        installed + "/package": "../../../../..",  # a folder
    }
    files = []
    for place, target in links.items():
        files.append(ctx.actions.declare_symlink(place))
        ctx.actions.symlink(output = files[-1], target_path = target)
    for place in [root + "/pyvenv.cfg", installed + "/bazel.pth", installed + "/_bazel_site_init.py"]:
        files.append(ctx.actions.declare_file(place))
        ctx.actions.write(files[-1], "")
    return [DefaultInfo(files = depset(files), runfiles = ctx.runfiles(files))]

venv = rule(implementation = _venv_impl)
