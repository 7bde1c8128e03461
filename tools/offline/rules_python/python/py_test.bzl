"""Public entry point for py_test."""

load("//python/private:on_disk.bzl", "packages_on_disk")
load("//python/private:rules.bzl", "TEST_ATTRIBUTES", "checked")

def py_test(**attributes):
    native.py_test(**packages_on_disk(checked("py_test", TEST_ATTRIBUTES, attributes | {"testonly": True})))  # buildifier: disable=native-python
