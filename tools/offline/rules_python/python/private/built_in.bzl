"""Bazel's own provider under another name: a file that defines PyInfo cannot read the one that is built in."""

BuiltInPyInfo = PyInfo  # buildifier: disable=name-conventions
