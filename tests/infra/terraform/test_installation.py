"""infra/terraform/program.py: what is found, and what is said where nothing is."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from infra.terraform.program import (
    TerraformError,
    TerraformMissing,
    find_installation,
    find_mirrors,
)

PROVIDER = "registry.terraform.io/hashicorp/aws"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
TARGET = f"{platform.system().lower()}_{MACHINE}"


def program(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "terraform"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def mirror(folder: Path, *, target: str = TARGET, packed: bool = False) -> Path:
    name = f"terraform-provider-aws_5.100.0_{target}.zip"
    path = folder / PROVIDER / (name if packed else f"5.100.0/{target}/terraform-provider-aws_v5")
    path.parent.mkdir(parents=True)
    path.touch()
    return folder


def test_terraform_is_found_on_the_path(tmp_path: Path) -> None:
    found = find_installation({"PATH": str(program(tmp_path).parent)})
    assert found.program == tmp_path / "terraform"


def test_a_variable_names_another_terraform(tmp_path: Path) -> None:
    other = program(tmp_path / "other")
    variables = {"PATH": str(program(tmp_path / "bin").parent), "KILN_TERRAFORM": str(other)}
    assert find_installation(variables).program == other


def test_without_terraform_it_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(TerraformMissing, match=r"install it from https://.*KILN_TERRAFORM"):
        find_installation({"PATH": str(tmp_path)})


def test_a_variable_that_names_no_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        TerraformMissing, match="KILN_TERRAFORM is '/nowhere', which is not a program"
    ):
        find_installation({"PATH": str(program(tmp_path).parent), "KILN_TERRAFORM": "/nowhere"})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("depth", ["", "one", "one/two"])
def test_a_mirror_is_found_below_a_usual_place(tmp_path: Path, packed: bool, depth: str) -> None:
    place = mirror(tmp_path / depth, packed=packed)
    assert find_mirrors((str(tmp_path),)) == [place]


def test_a_mirror_for_other_machines_is_none(tmp_path: Path) -> None:
    mirror(tmp_path, target="plan9_mips")
    assert find_mirrors((str(tmp_path),)) == []


def test_a_variable_names_the_mirror(tmp_path: Path) -> None:
    place = mirror(tmp_path / "mirror")
    variables = {"PATH": str(program(tmp_path).parent), "KILN_TERRAFORM_PLUGINS": str(place)}
    assert find_installation(variables).mirror == place


def test_a_named_mirror_without_the_provider_is_an_error(tmp_path: Path) -> None:
    variables = {"PATH": str(program(tmp_path).parent), "KILN_TERRAFORM_PLUGINS": str(tmp_path)}
    with pytest.raises(TerraformError, match="terraform providers mirror"):
        find_installation(variables)


def test_a_configuration_file_that_is_not_there_is_not_named_to_terraform(tmp_path: Path) -> None:
    variables = {"PATH": str(program(tmp_path).parent), "TF_CLI_CONFIG_FILE": "/nowhere/rc"}
    assert "TF_CLI_CONFIG_FILE" not in find_installation(variables).environment


def test_a_configuration_file_that_is_there_decides_about_providers(tmp_path: Path) -> None:
    file = tmp_path / "terraformrc"
    file.touch()
    variables = {"PATH": str(program(tmp_path).parent), "TF_CLI_CONFIG_FILE": str(file)}
    found = find_installation(variables)
    assert found.environment["TF_CLI_CONFIG_FILE"] == str(file)
    assert found.mirror is None


def test_garbage_is_collected_less_often_unless_somebody_says_how_often(tmp_path: Path) -> None:
    variables = {"PATH": str(program(tmp_path).parent)}
    assert find_installation(variables).environment["GOGC"] == "400"
    assert find_installation(variables | {"GOGC": "50"}).environment["GOGC"] == "50"
