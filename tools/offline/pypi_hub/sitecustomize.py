"""Puts the packages that a program declares on its path, from where they lie on the disk.

Python runs this module at its start, since its folder is what the offline rules_python puts on
PYTHONPATH. Among the program's files there is of each package its digest alone: thousands of files
need not be linked into each sandbox.
"""

import os
import sys


def _declared(place: str) -> list[str]:
    """The views of the packages whose digests lie beside this file, in the program's tree."""
    hub = os.path.dirname(
        os.path.dirname(os.path.realpath(os.path.join(place, "sitecustomize.py")))
    )
    beside = os.path.dirname(place)
    return [
        os.path.join(hub, "views", name, "site-packages")
        for name in sorted(os.listdir(beside))
        if os.path.exists(os.path.join(beside, name, "digest"))
    ]


# At the end, where packages usually are: the standard library is found without a look at them.
for _place in [entry for entry in sys.path if os.path.basename(entry) == "on_disk"]:
    sys.path += [view for view in _declared(_place) if view not in sys.path]

# Python runs one module of this name; measuring coverage needs another one, further along the path.
for _place in sys.path:
    _other = os.path.join(_place, "sitecustomize.py")
    if os.path.basename(_place) != "on_disk" and os.path.isfile(_other):
        import runpy

        runpy.run_path(_other)
        break
