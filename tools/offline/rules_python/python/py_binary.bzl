"""Public entry point for py_binary."""

load("//python/private:rules.bzl", "BINARY_ATTRIBUTES", "checked")

def py_binary(**attributes):
    native.py_binary(**checked("py_binary", BINARY_ATTRIBUTES, attributes))  # buildifier: disable=native-python
