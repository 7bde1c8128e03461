"""Releases from start to end: real commands, real AWS calls, functions that really answer."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console

from common.golden import GoldenImage, write_golden_set
from infra.release.commands import deploy, plan, rollback, status
from infra.terraform.program import TerraformFailed
from tests.helpers.waiting import wait_until
from tests.infra.release.world import READ_EVERY_S, TOKEN, Result, World, alarm, raised
from tests.infra.twin.cloud.functions import client

GOOD, OTHER = "a" * 64, "b" * 64


def test_a_good_version_is_promoted_and_no_request_fails(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    with world.traffic() as statuses:
        result = world.deploy(image, "--model-version", OTHER)
    assert result.code == 0, result.log
    assert result.data["outcome"] == "promoted"
    assert world.alias() == {"2": 1.0}
    assert set(statuses) == {200}
    kinds = world.kinds()
    assert kinds[:4] == ["begin", "publish", "test", "shift"]
    assert kinds[-2:] == ["promote", "promoted"]
    look = next(r.decision for r in world.ledger() if r.decision.kind == "look")
    reports = [look.evidence["window"][arm]["reports"] for arm in ("stable", "candidate")]
    assert all(report["calls"] and sum(report["starts"]) for report in reports)
    last = world.ledger()[-1].decision
    assert (last.from_version, last.to_version, last.model_version) == ("1", "2", OTHER)
    assert world.messages() == ["[dev] version 2 of kiln is live"]
    assert world.metric("kiln.release.verdict") == 1.0
    assert world.metric("kiln.golden.accuracy", {"faas.version": "2"}) == 1.0


@pytest.mark.parametrize(
    ("behaviour", "check"),
    [
        ({"failing": 0.5}, "errors"),
        ({"crashing": 0.5}, "errors"),
        ({"refusing": 0.3}, "refusals"),
        ({"wrong": 0.8}, "accuracy"),
        ({"delay_s": 0.2}, "latency"),
        ({"leaking_mb": 4}, "memory"),
        ({"logging": 0.1}, "log content"),
    ],
)
def test_a_bad_version_is_rolled_back_by_itself(
    world: World, behaviour: dict[str, float], check: str
) -> None:
    if check != "latency":  # of a busy machine
        world.set("required =", 'informing = ["latency"]\nrequired =')
    # A slow machine has few calls to show: the release waits for what this is about.
    required = json.dumps(sorted({"errors", "accuracy", check}))
    world.set('required = ["errors", "accuracy"]', f"required = {required}")
    world.create(world.push(GOOD))
    image = world.push(OTHER, **behaviour)
    with world.traffic(callers=4):
        result = world.deploy(image)
    assert result.code == 20, result.log
    assert world.alias() == {"1": 1.0}
    decided = next(r.decision for r in world.ledger() if r.decision.kind == "roll back")
    assert decided.verdict == "roll back"
    assert f"{check}:" in decided.why
    assert TOKEN not in result.log + json.dumps([r.as_dict() for r in world.ledger()])
    assert world.kinds()[-1] == "rolled back"
    assert world.messages() == ["[dev] kiln is back on version 1"]


def test_a_version_that_was_rolled_back_is_not_released_again_by_mistake(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER, wrong=1.0)
    assert world.deploy(image, "--strategy", "blue-green").code == 20
    again = world.deploy(image)
    assert again.code == 20
    assert "--again" in again.data["error"]
    assert world.kinds().count("begin") == 1
    assert world.deploy(image, "--strategy", "all-at-once", "--again").code == 0


def test_a_ledger_that_is_gone_keeps_nobody_with_a_bad_version(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER, wrong=1.0)

    def lose_the_ledger() -> None:
        wait_until(lambda: "shift" in world.kinds(), every_s=READ_EVERY_S)
        world.delete_ledger()

    losing = threading.Thread(target=lose_the_ledger)
    losing.start()
    result = world.deploy(image)
    losing.join()
    assert result.code == 20, result.data
    assert "THE LEDGER DOES NOT KNOW" in result.data["text"]
    assert world.alias() == {"1": 1.0}


def test_only_the_share_of_a_crashing_version_fails(world: World) -> None:
    world.create(world.push(GOOD))
    with world.traffic(callers=4) as statuses:
        assert world.deploy(world.push(OTHER, crashing=1.0)).code == 20
    failed = sum(status != 200 for status in statuses)
    assert failed <= 0.3 * len(statuses)


def test_an_alarm_rolls_back(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    with alarm(world, lambda: "shift" in world.kinds()):
        result = world.deploy(image)
    assert result.code == 20, result.log
    assert "alarm: kiln-errors" in result.data["record"]["why"]
    assert world.alias() == {"1": 1.0}


def test_an_alarm_that_was_raised_before_is_not_the_releases(world: World) -> None:
    world.create(world.push(GOOD))
    raised(world)
    with world.traffic():
        result = world.deploy(world.push(OTHER))
    assert result.code == 0, result.log


def test_an_alarm_after_the_promotion_rolls_back_too(world: World) -> None:
    world.set("watch_s = 0.3", "watch_s = 20")
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    with alarm(world, lambda: world.alias() == {"2": 1.0}):
        result = world.deploy(image, "--strategy", "all-at-once")
    assert result.code == 20, result.log
    assert world.alias() == {"1": 1.0}


def test_an_alarm_that_only_warns_is_shown_and_undoes_nothing(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    with world.traffic(), alarm(world, lambda: "shift" in world.kinds(), "kiln-throttles"):
        result = world.deploy(image)
    assert result.code == 0, result.log
    assert result.log.count("kiln-throttles") == 1
    assert world.alias() == {"2": 1.0}
    found = world.status()
    assert (found["alarms"], found["paging_alarms"]) == (["kiln-throttles"], [])


def test_drift_of_callers_images_holds_a_good_version_and_asks(world: World) -> None:
    world.set("most_hold_s = 60", "most_hold_s = 1")
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    with world.traffic(), alarm(world, lambda: "shift" in world.kinds(), "kiln-drift"):
        result = world.deploy(image)
    assert result.code == 10, result.log
    assert world.alias() == {"1": 0.5, "2": 0.5}
    with world.traffic():
        assert world.deploy(image, "--ignore-drift").code == 0
    assert world.alias() == {"2": 1.0}


def test_a_version_that_fails_its_smoke_test_gets_no_traffic(world: World) -> None:
    world.create(world.push(GOOD))
    with world.traffic() as statuses:
        result = world.deploy(world.push(OTHER), "--model-version", "c" * 64)
    assert result.code == 1
    assert "serves model bbb" in result.data["text"]
    assert world.alias() == {"1": 1.0}
    assert set(statuses) == {200}
    assert all("2" not in record.decision.weights for record in world.ledger())


def test_an_apply_that_fails_half_way_ends_the_release_and_blocks_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create(world.push(GOOD))
    apply = world.infrastructure.apply

    def fails(image_uri: str) -> None:
        apply(image_uri)
        raise TerraformFailed("alarms.tf: AccessDenied")

    monkeypatch.setattr(world.infrastructure, "apply", fails)
    failed = world.deploy(world.push(OTHER))
    assert failed.code == 1
    assert "AccessDenied" in failed.data["text"]
    assert world.kinds() == ["begin", "failed"]
    assert world.alias() == {"1": 1.0}
    monkeypatch.setattr(world.infrastructure, "apply", apply)
    assert world.deploy(world.push("c" * 64), "--strategy", "all-at-once").code == 0


def test_golden_images_of_another_dataset_are_refused_before_any_traffic(world: World) -> None:
    world.create(world.push(GOOD))
    images = [GoldenImage(b"seven:0", "seven")]  # whichever is asked first is a foreign one
    write_golden_set(world.golden, "digits", images)
    result = world.deploy(world.push(OTHER))
    assert result.code == 1
    assert "make_golden_set" in result.data["text"]
    assert world.alias() == {"1": 1.0}


def test_without_enough_evidence_it_rolls_back_in_time(world: World) -> None:
    world.set("most_hold_s = 60", "most_hold_s = 1")
    world.set("fewest_images = 10", "fewest_images = 10\nfewest_requests = 0")
    world.create(world.push(GOOD))
    result = world.deploy(world.push(OTHER))  # no traffic at all, and golden images do not carry it
    assert result.code == 20
    assert "too little evidence" in result.data["record"]["why"]
    assert world.alias() == {"1": 1.0}


def test_it_stops_for_a_person_if_the_config_says_so_and_goes_on_later(world: World) -> None:
    world.set("most_hold_s = 60", "most_hold_s = 1")
    world.set("fewest_images = 10", "fewest_images = 10\nfewest_requests = 0")
    world.set('on_hold = "roll back"', 'on_hold = "stop"')
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    result = world.deploy(image)
    assert result.code == 10
    assert world.alias() == {"1": 0.5, "2": 0.5}
    world.set("most_hold_s = 1", "most_hold_s = 60")
    with world.traffic():
        assert world.deploy(image).code == 0
    assert world.alias() == {"2": 1.0}
    assert world.kinds().count("begin") == 1


def test_blue_green_sends_nobody_before_the_golden_images_prove_it(world: World) -> None:
    world.create(world.push(GOOD))
    result = world.deploy(world.push(OTHER), "--strategy", "blue-green")
    assert result.code == 0, result.log
    shares = [r.decision.weights.get("2", 0.0) for r in world.ledger()]
    assert set(shares) == {0.0, 1.0}
    result = world.deploy(world.push("c" * 64, wrong=0.9), "--strategy", "blue-green")
    assert result.code == 20
    assert world.alias() == {"2": 1.0}


def test_a_split_is_held_and_ends_with_a_report(world: World) -> None:
    world.create(world.push(GOOD))
    with world.traffic():
        result = world.deploy(world.push(OTHER), "--strategy", "ab")
    assert result.code == 0, result.log
    assert result.data["outcome"] == "reported"
    assert world.alias() == {"1": 1.0}
    report = result.data["record"]["evidence"]
    assert report["golden"] == {"1": 1.0, "2": 1.0}
    assert report["requests"]["2"] > 0
    assert world.messages() == []


def test_the_same_image_again_changes_nothing(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    assert world.deploy(image, "--strategy", "all-at-once").code == 0
    again = world.deploy(image, "--strategy", "all-at-once")
    assert (again.code, again.data["outcome"]) == (0, "unchanged")
    assert world.alias() == {"2": 1.0}


def test_the_first_version_is_live_once_it_answers(world: World) -> None:
    image = world.push(GOOD)
    world.create(image)
    result = world.deploy(image)
    assert (result.code, result.data["outcome"]) == (0, "promoted")
    assert world.alias() == {"1": 1.0}


@contextmanager
def long_release(world: World, image: str) -> Iterator[list[Result]]:
    """One that goes on until somebody stops it, which the block must do; gives what it said."""
    found: list[Result] = []
    running = threading.Thread(target=lambda: found.append(world.deploy(image)))
    world.set("bake_s = 1\n", "bake_s = 600\n")
    running.start()
    try:
        wait_until(lambda: "look" in world.kinds(), every_s=READ_EVERY_S)
        world.set("bake_s = 600\n", "bake_s = 1\n")
        yield found
    finally:
        running.join()


def test_a_second_deploy_is_refused_while_one_runs(world: World) -> None:
    world.create(world.push(GOOD))
    with long_release(world, world.push(OTHER)):
        refused = world.deploy(world.push("c" * 64))
        running = world.status()["running"]
        assert world.rollback().code == 0
    assert refused.code == 1
    assert "is running `deploy sha256:" in refused.data["error"]
    assert "--take-over" in refused.data["error"]
    assert running["what"].startswith("deploy sha256:")
    assert world.kinds().count("begin") == 1


def test_who_is_taken_over_touches_nothing_more(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    with world.traffic(), long_release(world, image) as found:
        second = world.deploy(image, "--take-over")
    assert second.code == 0, second.log
    assert found[0].code == 1
    assert "took over" in found[0].data["error"] or "somebody else" in found[0].data["error"]
    assert world.kinds().count("begin") == world.kinds().count("promoted") == 1
    assert world.alias() == {"2": 1.0}


def test_a_person_rolls_back_amid_a_release(world: World) -> None:
    world.create(world.push(GOOD))
    with long_release(world, world.push(OTHER)) as found:
        back = world.rollback("--reason", "customers complain")
    assert back.code == 0
    assert found[0].code == 1
    assert world.alias() == {"1": 1.0}
    assert world.ledger()[-1].decision.why == "customers complain"
    assert world.status()["unfinished"] is None


def test_back_to_any_version_and_further_back(world: World) -> None:
    world.create(world.push(GOOD))
    for model in "bcd":
        image = world.push(model * 64)
        assert world.deploy(image, "--strategy", "all-at-once").code == 0
    assert world.rollback().code == 0
    assert world.alias() == {"3": 1.0}
    assert world.rollback().code == 0
    assert world.alias() == {"2": 1.0}
    assert world.rollback("--to", "4").code == 0
    assert world.alias() == {"4": 1.0}
    missing = world.rollback("--to", "9")
    assert (missing.code, "there are 1, 2, 3, 4" in missing.data["error"]) == (2, True)


def test_a_rollback_after_the_automatic_one_goes_no_further(world: World) -> None:
    world.create(world.push(GOOD))
    assert world.deploy(world.push(OTHER), "--strategy", "all-at-once").code == 0
    with world.traffic(callers=4):
        assert world.deploy(world.push("c" * 64, failing=0.5)).code == 20
    assert world.alias() == {"2": 1.0}
    before = len(world.ledger())
    for _ in range(2):
        again = world.rollback()
        assert (again.code, again.data["outcome"]) == (0, "unchanged")
        assert "from version 3" in again.data["text"]
    assert (world.alias(), len(world.ledger())) == ({"2": 1.0}, before)
    assert world.rollback("--to", "1").code == 0
    assert world.alias() == {"1": 1.0}


def test_a_dry_run_changes_nothing(world: World) -> None:
    world.create(world.push(GOOD))
    result = world.deploy(world.push(OTHER), "--dry-run")
    assert result.code == 0
    assert [step["weight"] for step in result.data["steps"]] == [0.2, 0.5]
    assert result.data["terraform"]["changed"]
    assert world.ledger() == []
    assert world.alias() == {"1": 1.0}


def test_what_does_not_pass_the_preflight_is_refused(world: World) -> None:
    image = world.push(GOOD)
    world.create(image)
    missing = world.deploy(f"{image.rpartition(':')[0]}:{'0' * 64}")
    assert (missing.code, "is not in ECR" in missing.data["error"]) == (1, True)
    tag = world.deploy("kiln:latest")
    assert (tag.code, "by digest" in tag.data["error"]) == (2, True)
    raised(world, "kiln-drift")
    drifting = world.deploy(image)
    assert (drifting.code, "--ignore-drift" in drifting.data["error"]) == (1, True)
    assert world.deploy(image, "--ignore-drift").code == 0


def test_an_image_with_findings_of_a_refused_severity_is_refused(world: World) -> None:
    image = world.push(GOOD)
    world.create(image)
    settings = world.config.read_text()
    world.config.write_text(f"{settings}[preflight]\nscan_required = true\n")
    unscanned = world.deploy(image)
    assert (unscanned.code, "was not scanned" in unscanned.data["error"]) == (1, True)
    client(world.cloud, "ecr").start_image_scan(
        repositoryName="kiln", imageId={"imageDigest": image.rpartition("@")[2]}
    )
    assert world.deploy(image).code == 0  # moto finds one of severity HIGH
    world.config.write_text(f'{settings}[preflight]\nrefused_severities = ["HIGH"]\n')
    found = world.deploy(image)
    assert (found.code, "findings: 1 high" in found.data["error"]) == (1, True)


def test_a_model_that_the_registry_has_not_promoted_is_refused(world: World) -> None:
    image = world.push(GOOD)
    world.create(image)
    world.config.write_text(
        world.config.read_text() + '[preflight]\nmodel_registry = "s3://ledgers/models"\n'
    )
    digest = image.rpartition("@")[2]
    unknown = world.deploy(image)
    assert (unknown.code, "does not know this image" in unknown.data["error"]) == (1, True)
    s3 = client(world.cloud, "s3")

    def put(key: str, document: object) -> None:
        s3.put_object(Bucket="ledgers", Key=f"models/{key}", Body=json.dumps(document))

    put(f"images/{digest[7:]}.json", {"version": GOOD})
    put("ledger/00000001.json", {"aliases": {"champion": OTHER}})
    other = world.deploy(image)
    assert (other.code, "is not champion" in other.data["error"]) == (1, True)
    put("ledger/00000002.json", {"aliases": {"champion": GOOD}})
    assert world.deploy(image).code == 0


def test_a_log_hears_every_so_often_what_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.001)  # a version may answer in ten times that
    world.create(world.push(GOOD))
    deployed = world.deploy(world.push(OTHER), "--strategy", "all-at-once")
    assert "still checking, " in deployed.log
    assert re.search(r"still releasing, \d+ s  asking version 2\n", deployed.log)
    assert re.search(r"still releasing, \d+ s  watching the alarms for another", deployed.log)
    assert "still asking version 2, " in world.rollback("--to", "2").log
    assert "still rolling back, " in world.rollback().log


def test_people_read_what_happened_and_scripts_get_one_document(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    quick = ("--strategy", "all-at-once")
    for words, main, arguments in (
        (("growing parts", "Dry run"), deploy.main, ("--image", image, "--dry-run")),
        (
            ("✓ identity", "smoke test", "PROMOTED"),
            deploy.main,
            (*quick, "--image", image, "--yes"),
        ),
        (("100 %  version 2", "promoted"), status.main, ()),
        (("ROLLED BACK  version 1 answers",), rollback.main, ("--yes",)),
        (("1 ← 2", "rolled back"), status.main, ()),
    ):
        out = Console(file=io.StringIO(), width=140)
        standard = ["--env", "dev", "--config", str(world.config)]
        if main is deploy.main:
            standard += ["--golden", "none"]
        code = main([*standard, *arguments], out, out, world.open)
        printed: Any = out.file
        assert code == 0, printed.getvalue()
        assert all(word in printed.getvalue() for word in words), printed.getvalue()


def test_without_a_person_there_a_deploy_needs_yes(world: World) -> None:
    image = world.push(GOOD)
    world.create(image)
    result = world.run(deploy.main, "--image", image, "--golden", "none")
    assert (result.code, "--yes" in result.data["error"]) == (2, True)
    assert world.ledger() == []


@pytest.mark.parametrize("last", ["0", "-3"])
def test_status_shows_one_record_at_least(last: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        status.main(["--env", "dev", "--last", last], Console(), Console())


def test_an_environment_of_the_shell_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KILN_ENV", "moon")
    errors = Console(file=io.StringIO(), width=140)
    assert status.main([], errors, errors) == 2
    printed: Any = errors.file
    assert "--env dev, staging, prod, or KILN_ENV, which is 'moon'" in printed.getvalue()


def test_a_dry_run_refuses_what_a_deploy_would_refuse(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    world.deploy(image, "--strategy", "all-at-once")
    world.rollback("--reason", "too slow")
    before = world.ledger()
    refused = world.deploy(image, "--dry-run")
    assert (refused.code, "by hand): too slow. --again" in refused.data["error"]) == (20, True)
    assert world.deploy(image, "--dry-run", "--again").code == 0
    assert world.ledger() == before


def test_a_plan_for_an_image_that_is_not_there_is_refused(world: World) -> None:
    image = world.push(GOOD)
    world.create(image)
    assert world.run(plan.main, "--image", image).code == 0
    refused = world.run(plan.main, "--image", f"sha256:{'0' * 64}")
    assert (refused.code, "is not in ECR: push it" in refused.data["error"]) == (1, True)


def test_a_rollback_to_where_the_traffic_is_changes_nothing(world: World) -> None:
    world.create(world.push(GOOD))
    world.deploy(world.push(OTHER), "--strategy", "all-at-once")
    before, told = world.ledger(), world.messages()
    result = world.rollback("--to", "2")
    assert (result.code, result.data["outcome"]) == (0, "unchanged")
    assert (world.ledger(), world.messages(), world.alias()) == (before, told, {"2": 1.0})


def test_an_interrupted_command_answers_with_a_document_too(world: World) -> None:
    def interrupted(options: Any, terminal: Any) -> Any:
        raise KeyboardInterrupt

    out, errors = (Console(file=io.StringIO(), width=140) for _ in range(2))
    for json_too in (["--json"], []):
        assert status.main(["--env", "dev", *json_too], out, errors, interrupted) == 130
    printed: Any = out.file
    said: Any = errors.file
    assert json.loads(printed.getvalue())["exit_code"] == 130
    assert "//infra:rollback" in said.getvalue()


def test_status_names_the_image_with_which_a_release_goes_on(world: World) -> None:
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    world.set("fewest_images = 10", "fewest_images = 10\nfewest_requests = 0")
    world.set('on_hold = "roll back"', 'on_hold = "stop"')
    world.set("most_hold_s = 60", "most_hold_s = 0")
    assert world.deploy(image).code == 10
    out = Console(file=io.StringIO(), width=140)
    assert status.main(["--env", "dev", "--config", str(world.config)], out, out, world.open) == 0
    printed: Any = out.file
    assert f"Deploy {image.rpartition('@')[2]} again to go on" in printed.getvalue()


def test_status_says_where_the_traffic_goes_and_why(world: World) -> None:
    world.create(world.push(GOOD))
    world.deploy(world.push(OTHER), "--strategy", "all-at-once", "--reason", "faster")
    found = world.status()
    assert found["alias"] == {"2": 1.0}
    assert found["versions"]["2"]["model"] == OTHER
    assert found["running"] is None
    assert next(record["kind"] for record in found["records"]) == "begin"
