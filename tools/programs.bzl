"""Programs of this machine, for repository rules."""

def program_on_path(rctx, name):
    """A program on PATH. Where there is none, the repository is fetched again once one appears.

    Args:
        rctx: the repository's context.
        name: of the program.

    Returns:
        its path, or None. rctx.which by itself leaves no trace: what was made without the program would stay so.
    """
    found = rctx.which(name)
    if not found:
        for folder in (rctx.getenv("PATH") or "").split(":"):
            if folder.startswith("/"):
                rctx.watch(folder + "/" + name)
    return found
