"""What a person types to work with the cloud that `--keep` leaves running."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from infra.twin.deploying import Deployer

_RUN = "./tools/bazel run //infra:"


def command_lines(
    deployer: Deployer,
    images: Mapping[str, str],
    environment: Mapping[str, str],
    unset: Sequence[str],
    url: str,
) -> Iterator[str]:
    """A shell's lines: first its environment, then the commands, the last of them for each image.

    Args:
        images: URIs by name.
        environment: where AWS's APIs are.
        unset: what would lead elsewhere.
    """
    yield f"unset {' '.join(unset)}"
    found = {
        **environment,
        "KILN_ENV": deployer.env,
        "KILN_TERRAFORM_STATE": str(deployer.state),
    }
    for name, value in found.items():
        yield f"export {name}={shlex.quote(value)}"
    pace, golden = shlex.join(deployer.pace), shlex.join(deployer.golden_set)
    variables = shlex.join(deployer.terraform)
    newest = list(images.values())[-1]
    yield ""
    yield f"curl {url}/ready"
    yield f"{_RUN}status"
    yield f"{_RUN}rollback -- {pace}"
    yield f"{_RUN}shadow -- --candidate 1 --rate 20 --share 0.02 {golden}"
    yield f"{_RUN}plan -- {variables} --image {newest}"
    yield f"{_RUN}destroy -- {variables} --dry-run"
    for name, uri in images.items():
        yield f"{_RUN}deploy -- {pace} {golden} {variables} --again --image {uri}  # {name}"
