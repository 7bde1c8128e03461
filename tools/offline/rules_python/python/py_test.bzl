"""Public entry point for py_test."""

load("//python/private:rules.bzl", "TEST_ATTRIBUTES", "checked")

def py_test(**attributes):
    native.py_test(**checked("py_test", TEST_ATTRIBUTES, attributes))  # buildifier: disable=native-python
