"""Public entry point for PyInfo."""

_PyInfo = PyInfo

PyInfo = _PyInfo
