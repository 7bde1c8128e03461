"""Public entry point for py_library."""

load("//python/private:rules.bzl", "LIBRARY_ATTRIBUTES", "checked")

def py_library(**attributes):
    native.py_library(**checked("py_library", LIBRARY_ATTRIBUTES, attributes))  # buildifier: disable=native-python
