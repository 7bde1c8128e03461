"""Public entry point for PyInfo."""

load("//python/private:built_in.bzl", "BuiltInPyInfo")

PyInfo = BuiltInPyInfo
