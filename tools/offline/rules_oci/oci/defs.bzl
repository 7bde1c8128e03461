"""Public entry point: oci_image, oci_load and oci_push."""

load("//oci/private:rules.bzl", "image", "lines", "load_image", "push")

_FORWARDED = ["tags", "target_compatible_with", "testonly", "visibility"]

def oci_image(
        name,
        labels = None,
        annotations = None,
        env = None,
        cmd = None,
        entrypoint = None,
        exposed_ports = None,
        volumes = None,
        user = None,
        workdir = None,
        **kwargs):
    """An OCI image layout, and `[name].digest`, a file with the image's digest.

    Args:
      name: name of the layout's target.
      labels: dict, or label of a file of lines name=value.
      annotations: dict, or label of a file of lines name=value.
      env: dict, or label of a file of lines name=value.
      cmd: list of arguments.
      entrypoint: list, the program and its first arguments.
      exposed_ports: list such as ["8080/tcp"].
      volumes: list of paths.
      user: name or number, perhaps with :group.
      workdir: path.
      **kwargs: base or os and architecture, tars, and what every rule has.
    """
    settings = {
        "cmd": cmd,
        "entrypoint": entrypoint,
        "exposed_ports": exposed_ports,
        "user": user,
        "volumes": volumes,
        "workdir": workdir,
    }
    for attribute, value in {"annotations": annotations, "env": env, "labels": labels}.items():
        if type(value) == type({}):
            settings[attribute] = value
        elif value:
            kwargs[attribute] = value
    for attribute in ["cmd", "entrypoint", "exposed_ports", "volumes"]:
        if settings[attribute] != None and type(settings[attribute]) != type([]):
            fail("oci_image({}): the offline rules_oci takes {} as a list".format(name, attribute))
    image(
        name = name,
        settings = json.encode({key: value for key, value in settings.items() if value != None}),
        **kwargs
    )
    native.filegroup(
        name = name + ".digest",
        srcs = [name],
        output_group = "digest",
        **_forwarded(kwargs)
    )

def oci_push(name, remote_tags = None, **kwargs):
    """Push an image and tag it in the registry.

    Args:
      name: what to run.
      remote_tags: list of tags, or label of a file with one a line.
      **kwargs: image, repository, and what every rule has.
    """
    push(name = name, remote_tags = _file(name + "_write_tags", remote_tags, kwargs), **kwargs)

def oci_load(name, repo_tags = None, **kwargs):
    """Load an image into this machine's container engine.

    Args:
      name: what to run; its output group `tarball` is what the engine is given.
      repo_tags: list of repository:tag, or label of a file with one a line.
      **kwargs: image, and what every rule has.
    """
    load_image(name = name, repo_tags = _file(name + "_write_tags", repo_tags, kwargs), **kwargs)

def _file(name, value, kwargs):
    if type(value) != type([]):
        return value
    lines(name = name, lines = value, **_forwarded(kwargs))
    return name

def _forwarded(kwargs):
    return {key: kwargs[key] for key in _FORWARDED if key in kwargs}
