"""`python_image`: what all images of this project have in common."""

load("@rules_oci//oci:defs.bzl", "oci_image")
load("//tools/image:labels.bzl", "image_labels")
load("//tools/image:layers.bzl", "BASE", "LINUX_X86_64")

def python_image(name, title, labels = {}, tags = [], **kwargs):
    """An image of Python programs that runs without root, for Linux on x86-64.

    Args:
      name: name of the image; NAME_labels are its labels.
      title: what the label `org.opencontainers.image.title` says.
      labels: dict of further labels.
      tags: of the image and its labels.
      **kwargs: as for oci_image.
    """
    image_labels(
        name = name + "_labels",
        labels = {"org.opencontainers.image.title": title} | labels,
        tags = tags,
    )
    oci_image(
        name = name,
        base = BASE,
        labels = ":%s_labels" % name,
        tags = tags,
        target_compatible_with = LINUX_X86_64,
        user = "65532:65532",
        **kwargs
    )
