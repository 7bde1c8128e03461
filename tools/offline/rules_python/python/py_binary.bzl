"""Public entry point for py_binary."""

load("//python/private:on_disk.bzl", "packages_on_disk")
load("//python/private:rules.bzl", "BINARY_ATTRIBUTES", "checked")

def py_binary(**attributes):
    native.py_binary(**packages_on_disk(checked("py_binary", BINARY_ATTRIBUTES, attributes)))  # buildifier: disable=native-python
