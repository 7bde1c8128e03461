"""What the doctor says of machines that have or lack a thing."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from tools.doctor import main as doctor
from tools.doctor.main import Finding, Machine, Status, lines, main


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """With an empty PATH; `install` puts programs there."""
    (tmp_path / "bin").mkdir()
    (tmp_path / ".bazelversion").write_text("7.7.1\n")
    return Machine(tmp_path, tmp_path / "cache" / "kiln", {"PATH": str(tmp_path / "bin")})


def install(machine: Machine, name: str, script: str = "exit 0") -> None:
    program = Path(machine.environment["PATH"], name)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_bare_machine_lacks_what_is_essential_and_is_told_the_remedy(machine: Machine) -> None:
    for examination in (doctor.python, doctor.git, doctor.bazel):
        found = examination(machine)
        assert found.status is Status.MISSING
        assert found.remedy


@pytest.mark.parametrize(("version", "status"), [("3.11.7", "fine"), ("3.12.1", "missing")])
def test_only_python_3_11_will_do(machine: Machine, version: str, status: str) -> None:
    install(machine, "python3", f"echo {version}")
    assert doctor.python(machine).status == status


@pytest.mark.parametrize(
    ("version", "status"), [("3.8.18", "missing"), ("3.9.18", "fine"), ("3.13.0", "fine")]
)
@pytest.mark.parametrize("brings", [["bazelisk"], ["apt-get", "dpkg-deb"]])
def test_another_python_will_do_where_builds_bring_theirs(
    machine: Machine, version: str, status: str, brings: list[str]
) -> None:
    for name in brings:
        install(machine, name)
    install(machine, "python3", f"echo {version}")
    assert doctor.python(machine).status == status


def test_bazel_is_found_provisioned_or_to_be_provisioned_in_this_order(machine: Machine) -> None:
    for name in ("apt-get", "dpkg-deb"):
        install(machine, name)
    assert doctor.bazel(machine).status is Status.FINE
    assert str(machine.cache) not in doctor.bazel(machine).detail
    provisioned = machine.cache / "bazel/7.7.1-abc/usr/bin/bazel"
    provisioned.parent.mkdir(parents=True)
    provisioned.touch()
    assert str(machine.cache) in doctor.bazel(machine).detail
    install(machine, "bazelisk")
    assert doctor.bazel(machine).detail.endswith("bin/bazelisk")


def test_a_full_disk_is_essential(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_GIB", 1 << 30)
    assert doctor.disk(machine).status is Status.MISSING
    monkeypatch.setattr(doctor, "DISK_GIB", 0)
    assert doctor.disk(machine).status is Status.FINE


def test_a_docker_client_without_an_engine_is_told_apart_from_none(machine: Machine) -> None:
    none = doctor.docker(machine)
    install(machine, "docker", "exit 1")
    client = doctor.docker(machine)
    install(machine, "docker", "echo 28.0")
    engine = doctor.docker(machine)
    assert [one.status for one in (none, client, engine)] == ["optional", "optional", "fine"]
    assert none.remedy != client.remedy
    assert engine.detail.split()[-1] == "28.0"


def test_aws_credentials_are_named_and_never_shown(machine: Machine) -> None:
    assert doctor.aws(machine).status is Status.OPTIONAL
    key = Machine(
        machine.workspace, machine.cache, {"PATH": "", "AWS_ACCESS_KEY_ID": "made-up", "HOME": "/"}
    )
    assert "made-up" not in doctor.aws(key).detail
    home = Machine(machine.workspace, machine.cache, {"PATH": "", "HOME": str(machine.workspace)})
    (machine.workspace / ".aws").mkdir()
    (machine.workspace / ".aws/config").touch()
    assert "~/.aws/config" in doctor.aws(home).detail


def test_terraform_tells_its_version(machine: Machine) -> None:
    install(machine, "terraform", """echo '{"terraform_version": "1.11.4"}'""")
    assert doctor.terraform(machine).detail == "1.11.4"


def test_without_a_network_the_world_is_offline_and_nothing_is_lost(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "REGISTRY", "http://127.0.0.1:1/")
    found = doctor.world(machine)
    assert found.status is Status.OPTIONAL


def test_every_lack_says_what_it_is_needed_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "REGISTRY", "http://127.0.0.1:1/")
    monkeypatch.setattr(doctor, "DISK_GIB", 0)  # whatever this machine has free
    monkeypatch.setattr(doctor, "MEMORY_GIB", 0)
    findings = [examination(machine) for examination in doctor.EXAMINATIONS]
    assert len(findings) == len(doctor.EXAMINATIONS)
    assert all(f.needed_for for f in findings)
    assert all(f.remedy for f in findings if f.status is not Status.FINE)
    told = lines(findings, colour=False)
    assert [f.name for f in findings if f.status is Status.MISSING] == ["Python", "git", "Bazel"]
    assert len(told) > 3 * sum(f.status is not Status.FINE for f in findings)


@pytest.mark.parametrize(("status", "code"), [(Status.OPTIONAL, 0), (Status.MISSING, 1)])
def test_the_exit_code_counts_only_what_is_essential(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Finding("thing", status, "none", "something", "get one")
    monkeypatch.setattr(doctor, "EXAMINATIONS", [lambda machine: found])
    assert main(["--json"]) == code
    assert json.loads(capsys.readouterr().out)[0]["status"] == status


def test_it_needs_the_standard_library_alone() -> None:
    """It runs where Bazel does not, so nothing is installed for it."""
    tree = ast.parse(Path(doctor.__file__).read_text(encoding="utf-8"))
    imported = {
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
    }
    imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names == {"common"}
