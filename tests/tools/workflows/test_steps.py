"""Every step of every workflow, run in a scratch clone whose Bazel notes what it is asked for.

What the steps ask Bazel for must exist, with options that the programs take. The tests of those
programs are elsewhere; `.ci/run` runs all of them and cannot run within one.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from infra.release.commands import deploy, rollback
from infra.release.settings import read_settings
from infra.supply_chain import registry, sign, verify
from ml.retrain import main as retrain
from tests.tools.starlark import ROOT, full_label, read_targets
from tests.tools.workflows.steps import Scratch, Step, read_steps
from tools import slack
from tools.affected import main as affected
from tools.lint import lint
from tools.model_card import comment, figures

STEPS = list(read_steps(Path(".github/workflows")))
HERE = [step for step in STEPS if step.script != ".ci/run"]
ENVIRONMENTS = {"production": "prod", "staging": "staging"}  # of AWS, by GitHub's
BUILD_FILES = [path for path in os.environ["BAZEL_SOURCES"].split() if path.endswith("BUILD.bazel")]
KNOWN = {label for path in BUILD_FILES for label in read_targets(ROOT / path)}
PUSHED = ["--pusher=a", "--digest=a", "--repository-file=a"]
# By target: the program's parser, and how many options its BUILD file gives it.
PARSERS: dict[str, tuple[Callable[[], argparse.ArgumentParser], list[str]]] = {
    "//infra:deploy": (deploy._options, []),
    "//ml:retrain": (retrain._parser, []),
    "//infra:rollback": (rollback._options, []),
    "//infra:push_watch_image": (
        registry._parser,
        ["--pusher=a", "--digest=a", "--repository-file=a"],
    ),
    "//infra:sign_watch_image": (sign._options, ["--digest=a", "--lock=a", "--sbom=a"]),
    "//serve:push_image": (registry._parser, PUSHED),
    "//serve:sign_image": (sign._options, ["--digest=a", "--model=a", "--lock=a", "--sbom=a"]),
    "//serve:verify_image": (verify._options, []),
    "//tools:affected": (affected._options, []),
    "//tools:lint": (lint._options, [f"--{name}=a" for name in lint.PROGRAMS]),
    "//tools:model_card_comment": (comment._options, []),
    "//tools:model_card_figures": (figures._options, []),
    "//tools:slack": (slack._options, []),
}


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    clone = Scratch(tmp_path / "clone")
    clone.take(Path(".ci").resolve())
    return clone


def test_the_workflows_have_steps() -> None:
    assert {step.workflow for step in STEPS} == {
        "ci",
        "drift",
        "lockfile",
        "model-card",
        "release",
        "retrain",
        "rollback",
        "security",
        "versions",
    }


@pytest.mark.parametrize("step", HERE, ids=str)
def test_a_step_runs_and_every_argument_has_a_value(scratch: Scratch, step: Step) -> None:
    (scratch.folder / "temp/table").write_text("table\n")
    done = scratch.run(step)
    assert done.returncode == 0, done.stderr
    assert all(argument and "${{" not in argument for call in scratch.calls for argument in call)
    assert not (scratch.folder / "injected").exists()


@pytest.mark.parametrize("step", HERE, ids=str)
def test_what_a_step_asks_bazel_for_exists_and_takes_its_options(
    scratch: Scratch, step: Step
) -> None:
    (scratch.folder / "temp/table").write_text("table\n")
    scratch.run(step)
    for _, *words in (call for call in scratch.calls if call[0] == "bazel"):
        [command, *_] = (word for word in words if not word.startswith("-"))
        assert command in ("run", "test", "build", "coverage", "info", "mod")
        own = words[: words.index("--")] if "--" in words else words
        for label in (word for word in own if word.startswith("//")):
            assert full_label(label, "") in KNOWN or label.endswith((":all", "/...")), label
            if command == "run" and label in PARSERS:
                make, given = PARSERS[label]
                make().parse_args([*given, *words[len(own) + 1 :]])


def test_who_moves_traffic_has_a_state_that_outlives_the_runner() -> None:
    """A runner's own folder would be empty each time: never deployed, nothing to go back to."""
    moving = [step for step in STEPS if re.search("//infra:(deploy|rollback)", step.script)]
    moving = [step for step in moving if "bazel run" in step.script]
    assert {step.workflow for step in moving} == {"release", "rollback"}
    for step in moving:
        assert "KILN_TERRAFORM_STATE" in step.environment, str(step)


def test_a_release_that_takes_longer_than_its_credentials_renews_them() -> None:
    deploying = [step for step in STEPS if "bazel run //infra:deploy" in step.script]
    assert [step.job for step in deploying] == ["staging", "production"]
    assert all("AWS_ROLE_ARN" in step.environment for step in deploying)
    jobs = yaml.safe_load(Path(".github/workflows/release.yml").read_text())["jobs"]
    for step in deploying:
        longest_s = read_settings(ENVIRONMENTS[step.job]).longest_s("canary")
        assert 60 * jobs[step.job]["timeout-minutes"] > longest_s
        permissions = jobs[step.job]["permissions"]
        assert permissions["id-token"] == "write"  # pragma: allowlist secret: name of a permission


def test_a_canary_delays_the_next_canary_of_its_environment_and_no_build() -> None:
    workflow = yaml.safe_load(Path(".github/workflows/release.yml").read_text())
    assert "github.ref" in workflow["concurrency"]["group"]  # the same tag twice, and no other
    groups = {name: job.get("concurrency") for name, job in workflow["jobs"].items()}
    for name in ENVIRONMENTS:
        assert groups.pop(name) == {"group": f"deploy-{name}", "cancel-in-progress": False}
    assert set(groups.values()) == {None}


@pytest.mark.parametrize("label", [label for label in PARSERS if "_image" in label])
def test_the_usage_line_names_the_target_that_was_run(
    label: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, given = PARSERS[label]
    with pytest.raises(SystemExit):
        make().parse_args([*run_as(label), *given, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: bazel run {label} -- ")


def run_as(label: str) -> list[str]:
    """What the BUILD file adds for the usage line."""
    text = Path("infra/supply_chain/BUILD.bazel").read_text()
    return re.findall(rf'"(--run-as={label})"', text)


def test_a_job_that_deploys_installs_terraform_and_builds_before_it_signs_in() -> None:
    jobs = yaml.safe_load(Path(".github/workflows/release.yml").read_text())["jobs"]
    deploying = [
        [step.get("uses", step.get("run", "")) for step in job["steps"]]
        for job in jobs.values()
        if any("bazel run //infra:deploy" in step.get("run", "") for step in job["steps"])
    ]
    assert len(deploying) == 2
    for steps in deploying:
        order = [
            next(place for place, step in enumerate(steps) if re.match(pattern, step))
            for pattern in (
                "hashicorp/setup-terraform@[0-9a-f]{40}",
                r"\./tools/bazel build .*//infra:deploy",
                "aws-actions/configure-aws-credentials@",
                r"\./tools/bazel run //infra:deploy",
            )
        ]
        assert order == sorted(order)


def test_a_job_that_signs_or_verifies_has_cosign_before_bazel_looks_for_it() -> None:
    """Ubuntu's apt offers no package of Debian's, so the repository rule takes what PATH has."""
    jobs = yaml.safe_load(Path(".github/workflows/release.yml").read_text())["jobs"]
    for name, job in jobs.items():
        steps = [step.get("uses", step.get("run", "")) for step in job["steps"]]
        needs = any(re.search("//infra:deploy|:(sign|verify)_", step) for step in steps)
        first = next(place for place, step in enumerate(steps) if "tools/bazel" in step)
        has = any(re.match("sigstore/cosign-installer@[0-9a-f]{40}", s) for s in steps[:first])
        assert has == needs == (name != "tell")


def test_every_major_version_of_bazel_is_tried_and_only_the_usual_one_can_fail_the_run() -> None:
    [job] = yaml.safe_load(Path(".github/workflows/versions.yml").read_text())["jobs"].values()
    rows = job["strategy"]["matrix"]["include"]
    usual = Path(".bazelversion").read_text().strip()
    files = Path("tools/bazelrc").glob("[0-9]*.bazelrc")
    assert {row["bazel"].partition(".")[0] for row in rows} == {file.stem for file in files}
    assert [row["bazel"] for row in rows if not row["only_reports"]] == [usual]
    assert {row["machine"] for row in rows if row["bazel"] == usual} >= {
        "ubuntu-24.04-arm",
        "macos-latest",
    }


@pytest.mark.parametrize(("release", "passes"), [("8.x", True), ("9.x", False)])
def test_another_version_than_the_one_of_the_row_is_noticed(
    scratch: Scratch, release: str, passes: bool
) -> None:
    step = step_of("versions", "Check the Bazel version")
    other = {**step.environment, "USE_BAZEL_VERSION": release}
    done = scratch.run(Step(step.workflow, step.job, step.name, step.script, other))
    assert (done.returncode == 0) is passes


def test_what_came_of_a_version_stands_in_the_summary(scratch: Scratch) -> None:
    assert scratch.run(step_of("versions", "Report")).returncode == 0
    [line] = (scratch.folder / "temp/summary").read_text().splitlines()
    assert [word in line for word in ("8.x", "ubuntu-latest", "success", "failure")] == [True] * 4


def test_the_hooks_of_pre_commit_are_commands_that_exist() -> None:
    [local] = yaml.safe_load(Path(".pre-commit-config.yaml").read_text())["repos"]
    for hook in local["hooks"]:
        words = hook["entry"].split()
        [label] = (word for word in words if word.startswith("//"))
        assert words[:2] == ["./tools/bazel", "run"]
        assert full_label(label, "") in KNOWN
        if label in PARSERS:
            make, given = PARSERS[label]
            make().parse_args([*given, *words[words.index("--") + 1 :]])


def step_of(workflow: str, name: str) -> Step:
    [step] = [step for step in STEPS if (step.workflow, step.name) == (workflow, name)]
    return step


def test_a_release_hands_the_pushed_references_on(scratch: Scratch) -> None:
    assert scratch.run(step_of("release", "Build and push")).returncode == 0
    output = (scratch.folder / "temp/output").read_text()
    pushed = f"registry.invalid/kiln@sha256:{'0' * 64}\n"
    assert output == f"reference={pushed}watcher={pushed}"


@pytest.mark.parametrize(("status", "passes"), [(0, True), (3, True), (4, True), (2, False)])
def test_drift_is_an_outcome_and_unusable_input_a_failure(
    scratch: Scratch, status: int, passes: bool
) -> None:
    scratch.status = status
    done = scratch.run(step_of("drift", "Compare"))
    assert (done.returncode == 0) is passes
    assert (scratch.folder / "temp/output").read_text() == f"status={status}\n"


@pytest.mark.parametrize(
    ("status", "passes"), [(0, True), (3, True), (4, True), (5, True), (2, False)]
)
def test_what_came_of_a_retraining_decides_whether_a_model_is_proposed(
    scratch: Scratch, status: int, passes: bool
) -> None:
    scratch.status = status
    done = scratch.run(step_of("retrain", "Retrain"))
    assert (done.returncode == 0) is passes
    assert (scratch.folder / "temp/output").read_text() == f"status={status}\n"
    jobs = yaml.safe_load(Path(".github/workflows/retrain.yml").read_text())["jobs"]
    assert jobs["propose"]["if"] == "needs.retrain.outputs.status == '0'"
    assert "--no-promote" in scratch.calls[-1]


def test_a_better_model_is_proposed_with_its_card_and_not_deployed(scratch: Scratch) -> None:
    (scratch.folder / "temp/card.md").write_text("# Retraining\n")
    step = step_of("retrain", "Open a pull request with the model card")
    assert scratch.run(step).returncode == 0
    (_, *branch), (_, *file), (_, *request) = (c for c in scratch.calls if "-q" not in c)
    assert branch[:2] == ["api", "repos/me/kiln/git/refs"]
    assert "content=IyBSZXRyYWluaW5nCg==" in file
    assert request[:2] == ["pr", "create"]
    assert request[request.index("--head") + 1] == "retrain-9"


def test_a_proposal_that_is_repeated_makes_nothing_twice(scratch: Scratch) -> None:
    """A run's second attempt has its first one's branch, file and pull request."""
    (scratch.folder / "temp/card.md").write_text("# Retraining\n")
    step = step_of("retrain", "Open a pull request with the model card")
    environment = {**step.environment, "THERE": "1"}
    there = Step(step.workflow, step.job, step.name, step.script, environment)
    assert scratch.run(there).returncode == 0
    assert not [call for call in scratch.calls if {"-f", "create"} & set(call)]


@pytest.mark.parametrize(("there", "command"), [("", "create"), ("1", "comment")])
def test_drift_that_lasts_is_one_issue(scratch: Scratch, there: str, command: str) -> None:
    (scratch.folder / "temp/table").write_text("table\n")
    step = step_of("drift", "Open an issue")
    environment = {**step.environment, "THERE": there}
    done = scratch.run(Step(step.workflow, step.job, step.name, step.script, environment))
    assert done.returncode == 0, done.stderr
    assert scratch.calls[-1][1:3] == ["issue", command]


def test_what_decides_whether_a_job_runs_is_known_before_its_environment() -> None:
    """GitHub evaluates a job's `if` without the variables of its environment: they must be the
    repository's, and the page on setting up says so."""
    asked = set()
    for file in Path(".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            condition = str(job.get("if", ""))
            assert "secrets." not in condition  # GitHub knows none of them there
            asked |= set(re.findall(r"vars\.(\w+)", condition))
    [line] = re.findall(
        r"^- Variables of the repository,.*?(?=^- )",
        Path("docs/threat-model.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert asked == {name for name in re.findall(r"`(\w+)`", line) if name.isupper()}


def test_a_rollback_without_a_version_goes_to_the_one_before(scratch: Scratch) -> None:
    step = step_of("rollback", "Roll back")
    earlier = Step(
        step.workflow, step.job, step.name, step.script, {**step.environment, "VERSION": ""}
    )
    for one, to in ((step, ["--to", "12"]), (earlier, [])):
        scratch.run(one)
        words = scratch.calls[-1]
        assert words[words.index("--env") :][:2] == ["--env", "prod"]
        assert (words[words.index("--to") :][:2] if "--to" in words else []) == to
        assert words[words.index("--reason") + 1].startswith('it\'s "slow"; $(touch injected)')


def test_flags_of_continuous_integration_name_a_remote_cache_only_where_there_is_one(
    scratch: Scratch,
) -> None:
    for address, told in (("", False), ("grpcs://cache.invalid", True)):
        flags = Step("", "", "", ".ci/flags", {"KILN_REMOTE_CACHE": address})
        assert scratch.run(flags).returncode == 0
        written = (scratch.folder / ".bazelrc.user").read_text()
        assert f"--disk_cache={scratch.folder}/.cache/kiln-disk" in written
        assert ("remote_cache" in written) is told


def test_caches_stay_below_what_github_keeps(scratch: Scratch) -> None:
    assert scratch.run(Step("", "", "", ".ci/flags", {"KILN_REMOTE_CACHE": ""})).returncode == 0
    written = (scratch.folder / ".bazelrc.user").read_text()
    (largest,) = re.findall(r"disk_cache_gc_max_size=(\d+)M", written)
    names: set[str] = set()
    for file in Path(".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            caches = [
                step["with"]["cache"] for step in job["steps"] if "cache" in step.get("with", {})
            ]
            matrix = job.get("strategy", {}).get("matrix", {}).get("include", [{}])
            names |= {
                f"{cache}{one}" if "$" in cache else cache for cache in caches for one in matrix
            }
    others_mb = 500  # what ~/.cache/kiln holds: the dataset and programs
    assert len(names) > 8
    assert len(names) * (int(largest) + others_mb) <= 10_000

    action = yaml.safe_load(Path(".github/actions/setup/action.yml").read_text())
    saving = [step for step in action["runs"]["steps"] if "actions/cache@" in step.get("uses", "")]
    assert [step["if"] for step in saving] == ["github.ref == 'refs/heads/main'"]
